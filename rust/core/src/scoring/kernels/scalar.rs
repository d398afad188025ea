//! Portable kernels: the meaning of the others.

use super::BLOCK_DIMENSIONS;

type Results<'o> = (&'o mut f32, &'o mut f32);

pub(super) fn dot_squares<'o>(query: &[f32], work: impl Iterator<Item = (*const f32, Results<'o>)>) {
    for (row, (dot, square)) in work {
        let mut dots = [0.0_f32; 8];
        let mut squares = [0.0_f32; 8];
        for (index, &q) in query.iter().enumerate() {
            // SAFETY: the caller hands rows that are as long as the query.
            let x = unsafe { row.add(index).read_unaligned() };
            dots[index % 8] += q * x;
            squares[index % 8] += x * x;
        }
        *dot = dots.iter().sum();
        *square = squares.iter().sum();
    }
}

pub(super) fn nibble_dots(query: &[i8], codes: &[u8], out: &mut [i32]) {
    for (row, slot) in codes.chunks_exact(query.len() / 2).zip(out) {
        let mut sum = 0;
        for (bytes, q) in row.chunks_exact(BLOCK_DIMENSIONS / 2).zip(query.chunks_exact(BLOCK_DIMENSIONS)) {
            let (low, high) = q.split_at(BLOCK_DIMENSIONS / 2);
            for ((&byte, &q_low), &q_high) in bytes.iter().zip(low).zip(high) {
                sum += i32::from(byte & 15) * i32::from(q_low) + i32::from(byte >> 4) * i32::from(q_high);
            }
        }
        *slot = sum;
    }
}
