// Constants of the float steps that every instruction set computes alike.
#pragma once

namespace edgebert {

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves that integer in
// the low bits of the sum.
constexpr float ROUNDER = 12582912.0f;

// The inverse of a step of denormal size is kept finite: 0 * infinity is no number.
constexpr float LARGEST_INVERSE = 3.0e38f;

// 2^f for f in [-0.5, 0.5], relative error 2.6e-6: least-squares fit reweighted to equal ripples.
constexpr float EXP2_SHORT[5] = {0.9999992613778609f, 0.6931218139668097f, 0.24024744991453162f,
                                 0.055917866843810934f, 0.009570097699815011f};
constexpr float EXP2_BYTE[5] = {255.0f * EXP2_SHORT[0], 255.0f * EXP2_SHORT[1], 255.0f * EXP2_SHORT[2],
                                255.0f * EXP2_SHORT[3], 255.0f * EXP2_SHORT[4]};
// Below this exponent 255 * 2^x rounds to 0.
constexpr float EXP2_BYTE_LOWEST = -60.0f;

// 2^f for f in [-0.5, 0.5], relative error 2e-9 before rounding.
constexpr float EXP2[7] = {1.0000000005542087f,    0.6931472057380856f,   0.24022646890383864f,
                           0.0555032877514264f,    0.009618488977339468f, 0.0013399931966930137f,
                           0.00015345808377402285f};
constexpr float LOG2_E = 1.4426950408889634f;

// gelu(x) = max(x, 0) - s * 2^p(s), s = min(|x|, GELU_LIMIT); 2^p(s) is the normal distribution's tail beyond
// s. Largest error 8.6e-7. The logarithm is close to a parabola, so that few coefficients do.
constexpr float GELU_LIMIT = 5.5f;
constexpr float GELU[6] = {-1.0000376320668032f,   -1.1507877717745538f,  -0.4599926419980491f,
                           -0.051827171286145564f, 0.007084462142352888f, -0.00047329413504409133f};
// -2^f: the product is subtracted.
constexpr float GELU_EXP2[5] = {-EXP2_SHORT[0], -EXP2_SHORT[1], -EXP2_SHORT[2], -EXP2_SHORT[3],
                                -EXP2_SHORT[4]};

}  // namespace edgebert
