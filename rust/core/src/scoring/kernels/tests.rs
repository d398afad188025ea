#![allow(clippy::float_cmp)] // small integers: exact

use super::{
    BLOCK_DIMENSIONS, Chosen, CoarseBound, Element, F32_SAFE_SQUARES, Kernels, Line, Rows, TILE_QUERIES, Tier,
    f32_error_factor, packed,
};
use proptest::prelude::*;

fn tiers() -> Vec<Kernels> {
    let found: Vec<_> = Tier::ALL.into_iter().filter_map(Kernels::forced).collect();
    assert!(found.iter().any(|kernels| kernels.tier() == Tier::Scalar));
    // Every 64-bit Arm processor that the standard library is built for has NEON: there it must not be passed over.
    assert!(!cfg!(target_arch = "aarch64") || found.iter().any(|kernels| kernels.tier() == Tier::Neon));
    found
}

fn naive_nibble_dot(query: &[i8], row: &[u8]) -> i64 {
    let mut sum = 0;
    for (dimension, &q) in query.iter().enumerate() {
        let (block, within) = (dimension / BLOCK_DIMENSIONS, dimension % BLOCK_DIMENSIONS);
        let byte = row[block * 32 + within % 32];
        let code = if within < 32 { byte & 15 } else { byte >> 4 };
        sum += i64::from(code) * i64::from(q);
    }
    sum
}

#[test]
fn detection_picks_the_last_available_tier() {
    let last = Tier::ALL.into_iter().rev().find(|tier| tier.is_available());
    assert_eq!(Some(Kernels::detect().tier()), last);
    assert_eq!(Tier::ALL.map(Tier::name), ["scalar", "neon", "avx2", "avx512"]);
}

#[test]
fn extreme_codes_do_not_overflow() {
    for blocks in [1, 3, 4, 5, 24, 1024] {
        for sign in [127_i8, -127] {
            let query = vec![sign; blocks * BLOCK_DIMENSIONS];
            let codes = vec![0xff_u8; blocks * 32 * 2];
            for kernels in tiers() {
                let mut out = [0; 2];
                kernels.nibble_dots(&query, &codes, &mut out);
                let expected = i32::try_from(blocks * BLOCK_DIMENSIONS).unwrap() * 15 * i32::from(sign);
                assert_eq!(out, [expected; 2], "{:?}", kernels.tier());
            }
        }
    }
}

#[test]
fn rows_may_be_strided_reversed_and_unaligned() {
    let values: Vec<f32> = (0..64_u8).map(f32::from).collect();
    let bytes: Vec<u8> = std::iter::once(0).chain(values.iter().flat_map(|v| v.to_ne_bytes())).collect();
    // SAFETY: eight rows of three elements, 32 bytes apart backwards from the last, all inside `bytes`.
    let rows = unsafe { Rows::from_raw(bytes.as_ptr().add(1 + 7 * 32), 8, 3, -32, Element::F32) };
    for kernels in tiers() {
        let (mut dots, mut squares) = ([0.0; 2], [0.0; 2]);
        kernels.dot_squares(&[1.0, 10.0, 100.0], &rows, Chosen::Listed(&[0, 7]), &mut dots, &mut squares);
        assert_eq!(dots.map(f64::from), [56.0 + 570.0 + 5800.0, 10.0 + 200.0]);
        assert_eq!(squares.map(f64::from), [56.0 * 56.0 + 57.0 * 57.0 + 58.0 * 58.0, 5.0]);
        kernels.dot_squares(&[1.0, 10.0, 100.0], &rows, Chosen::From(6), &mut dots, &mut squares);
        assert_eq!(dots.map(f64::from), [8.0 + 90.0 + 1000.0, 10.0 + 200.0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 200 }))]

    #[test]
    fn f32_kernels_stay_within_the_stated_bound(
        (query, rows) in (1_usize..200).prop_flat_map(|d| (
            prop::collection::vec(-1e3_f32..1e3, d),
            prop::collection::vec(-1e3_f32..1e3, d * 3),
        )),
    ) {
        let d = query.len();
        let wide: Vec<f64> = query.iter().copied().map(f64::from).collect();
        let matrix = Rows::from_slice(&rows, d);
        let query_norm = wide.iter().map(|q| q * q).sum::<f64>().sqrt();
        for kernels in tiers() {
            let (mut dots, mut squares) = ([0.0; 3], [0.0; 3]);
            kernels.dot_squares(&query, &matrix, Chosen::From(0), &mut dots, &mut squares);
            for row in 0..3 {
                let (dot, square) = matrix.exact_dot(&wide, row);
                // The same as the portable loop to the last bit, whatever registers did it.
                let portable = super::exact_sums(&wide, |index| f64::from(rows[row * d + index]));
                prop_assert_eq!((dot.to_bits(), square.to_bits()), (portable.0.to_bits(), portable.1.to_bits()));
                #[cfg(target_arch = "x86_64")]
                if Tier::Avx2.is_available() {
                    // SAFETY: AVX2 was found; the row has as many elements as the query.
                    let narrower = unsafe { super::avx2::exact_dot(&wide, rows[row * d..].as_ptr()) };
                    prop_assert_eq!(narrower.0.to_bits(), dot.to_bits());
                    prop_assert_eq!(narrower.1.to_bits(), square.to_bits());
                }
                let naive: f64 = wide.iter().zip(&rows[row * d..]).map(|(q, x)| q * f64::from(*x)).sum();
                prop_assert!((dot - naive).abs() <= 1e-12 * query_norm * square.sqrt() + 1e-300);
                let bound = f32_error_factor(d) * query_norm * square.sqrt() + 1e-40;
                prop_assert!((f64::from(dots[row]) - dot).abs() <= bound, "{:?} dot", kernels.tier());
                prop_assert!((f64::from(squares[row]) - square).abs() <= f32_error_factor(d) * square + 1e-40);
            }
        }
    }

    #[test]
    fn integer_kernels_are_exact_and_agree(
        (query, codes) in (1_usize..12).prop_flat_map(|blocks| (
            prop::collection::vec(-127_i8..=127, blocks * 64),
            prop::collection::vec(any::<u8>(), blocks * 32 * 3),
        )),
    ) {
        let naive: Vec<i64> = codes.chunks(query.len() / 2).map(|row| naive_nibble_dot(&query, row)).collect();
        let reversed: Vec<i8> = query.iter().rev().copied().collect();
        for kernels in tiers() {
            let mut out = [0; 3];
            kernels.nibble_dots(&query, &codes, &mut out);
            prop_assert_eq!(out.map(i64::from).to_vec(), naive.clone(), "{:?}", kernels.tier());
            let mut tile = [[0_i32; 3]; TILE_QUERIES];
            let slots: Vec<&mut [i32]> = tile.iter_mut().map(<[i32; 3]>::as_mut_slice).collect();
            let slots: [&mut [i32]; TILE_QUERIES] = slots.try_into().unwrap();
            kernels.nibble_dots_tile([&query, &reversed, &query, &query], &codes, slots);
            prop_assert_eq!(tile[0], out);
            prop_assert_eq!(tile[3], out);
            let mut alone = [0; 3];
            kernels.nibble_dots(&reversed, &codes, &mut alone);
            prop_assert_eq!(tile[1], alone);
        }
    }

    #[test]
    fn every_tier_sees_the_same_rows_above_a_line(
        rows in prop::collection::vec(
            (-3.0_f32..3.0, prop::sample::select(vec![0.0, 0.5, 1.0, 2.0, 1e-25, 1e31, f32::NAN, f32::INFINITY])), 0..300
        ),
        slope in -2.0_f32..2.0,
        rise in prop::sample::select(vec![-1.0_f32, 0.0, 0.5, f32::INFINITY, f32::NAN]),
    ) {
        let (dots, squares): (Vec<f32>, Vec<f32>) = rows.iter().copied().unzip();
        let is_above = |&(dot, square): &(f32, f32)| {
            let is_below = dot + slope * square.sqrt() < rise; // false where either is not a number
            !(F32_SAFE_SQUARES.contains(&square) && is_below)
        };
        let naive: Vec<bool> = rows.iter().map(is_above).collect();
        for kernels in tiers() {
            let mut words = vec![u64::MAX; rows.len().div_ceil(64)];
            kernels.above(Line { slope, rise }, &dots, &squares, &mut words);
            let found: Vec<bool> = (0..words.len() * 64).map(|row| words[row / 64] >> (row % 64) & 1 == 1).collect();
            prop_assert_eq!(&found[..rows.len()], &naive[..], "{:?}", kernels.tier());
            prop_assert!(!found[rows.len()..].contains(&true), "bits beyond the last row are clear");
        }
    }

    #[test]
    fn bytes_are_packed_in_their_order(bits in prop::collection::vec(0_u8..2, 64)) {
        let bits: [u8; 64] = bits.try_into().unwrap();
        let word = packed(&bits);
        prop_assert!((0..64).all(|bit| word >> bit & 1 == u64::from(bits[bit])));
    }

    #[test]
    fn every_tier_lets_the_same_rows_reach_a_floor(
        rows in prop::collection::vec(
            (-200_000_i32..200_000, 0.0_f32..0.1, 0.0_f32..0.5, prop::bool::weighted(0.05)), 0..300
        ),
        scale in -1.0_f32..1.0,
        floor in prop::sample::select(vec![f32::NEG_INFINITY, -100.0, 0.0, 100.0, 3e3, f32::INFINITY]),
    ) {
        // Some rows have no finite bound: they cannot be ruled out.
        let bound = CoarseBound { scale, offset: 17.25, residual_factor: 1.5, norm_factor: 0.75 };
        let raw: Vec<i32> = rows.iter().map(|row| row.0).collect();
        let steps: Vec<f32> = rows.iter().map(|row| row.1).collect();
        let residuals: Vec<f32> = rows.iter().map(|row| row.2).collect();
        let norms: Vec<f32> = rows.iter().map(|row| if row.3 { f32::NAN } else { row.2 * 2.0 }).collect();
        let is_reaching = |&(raw, step, residual, is_nan): &(i32, f32, f32, bool)| {
            let error = residual * bound.residual_factor + residual * 2.0 * bound.norm_factor;
            is_nan || step * (bound.scale * raw as f32 - bound.offset) + error >= floor
        };
        let naive: Vec<bool> = rows.iter().map(is_reaching).collect();
        for kernels in tiers() {
            let mut words = vec![u64::MAX; rows.len().div_ceil(64)];
            kernels.reaching(&bound, floor, &raw, [&steps, &residuals, &norms], &mut words);
            let found: Vec<bool> = (0..words.len() * 64).map(|row| words[row / 64] >> (row % 64) & 1 == 1).collect();
            prop_assert_eq!(&found[..rows.len()], &naive[..], "{:?}", kernels.tier());
            prop_assert!(!found[rows.len()..].contains(&true), "bits beyond the last row are clear");
        }
    }
}
