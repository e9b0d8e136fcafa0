// Constants of the float steps that every instruction set computes alike.
#pragma once

namespace edgebert {

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves that integer in
// the low bits of the sum.
constexpr float ROUNDER = 12582912.0f;

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

// gelu(x) = x (1/2 + c p(c^2)), c = x clamped to ±GELU_LIMIT; p is such that the ends are exactly 0 and x.
// Largest error 4.6e-5.
constexpr float GELU_LIMIT = 4.25f;
constexpr float GELU[9] = {0.39882946014404297f,    -0.06620704382658005f,   0.009728867560625076f,
                           -0.0010821333853527904f, 8.901256660465151e-05f,  -5.20040157425683e-06f,
                           2.0173450820948347e-07f, -4.614419513160328e-09f, 4.6781103296700266e-11f};

}  // namespace edgebert
