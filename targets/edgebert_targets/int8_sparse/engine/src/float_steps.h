// Constants of the float steps that every instruction set computes alike.
#pragma once

namespace edgebert {

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves that integer in
// the low bits of the sum.
constexpr float ROUNDER = 12582912.0f;

// The inverse of a step of denormal size is kept finite: 0 * infinity is no number.
constexpr float LARGEST_INVERSE = 3.0e38f;

// 255 * 2^f for f in [-0.5, 0.5], relative error 2.6e-6: least-squares fit reweighted to equal ripples.
constexpr float EXP2_BYTE[5] = {255.0f * 0.9999992613778609f, 255.0f * 0.6931218139668097f,
                                255.0f * 0.24024744991453162f, 255.0f * 0.055917866843810934f,
                                255.0f * 0.009570097699815011f};
// Below this exponent 255 * 2^x rounds to 0.
constexpr float EXP2_BYTE_LOWEST = -60.0f;

// 2^f for f in [-0.5, 0.5], relative error 2e-9 before rounding.
constexpr float EXP2[7] = {1.0000000005542087f,    0.6931472057380856f,   0.24022646890383864f,
                           0.0555032877514264f,    0.009618488977339468f, 0.0013399931966930137f,
                           0.00015345808377402285f};
constexpr float LOG2_E = 1.4426950408889634f;

// gelu(x) = max(x, 0) - p(s), s = min(|x|, GELU_LIMIT) - GELU_LIMIT / 2. Largest error 1.5e-5. Around the
// middle of its range the polynomial is well conditioned in float.
constexpr float GELU_LIMIT = 4.5f;
constexpr int GELU_DEGREE = 10;
constexpr float GELU[GELU_DEGREE + 1] = {
    0.02749713324010372f,  -0.059128668159246445f,  0.04870960861444473f,    -0.012924295850098133f,
    -0.00791950710117817f, 0.007539774291217327f,   -0.0015792902559041977f, -0.0006039649597369134f,
    0.00026852817973122f,  1.4738898244104348e-05f, -1.2807046914531384e-05f};

}  // namespace edgebert
