//! The picture that every step of preprocessing hands to the next: eight bits a channel, red, green, blue.

/// Pixels of a decoded picture, row by row from the top left, three bytes (red, green, blue) a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbPicture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbPicture {
    /// Takes `pixels` of `width` times `height` pixels.
    ///
    /// # Panics
    /// When a side is zero or `pixels` has another length than `3 * width * height`.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Self {
        assert!(
            width > 0 && height > 0,
            "a picture has at least one pixel, not {width} x {height}"
        );
        assert_eq!(
            pixels.len(),
            byte_len(width, height),
            "three bytes a pixel of {width} x {height}"
        );
        Self {
            width,
            height,
            pixels,
        }
    }

    /// A picture of one colour.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let pixels = colour.repeat(byte_len(width, height) / 3);
        Self::new(width, height, pixels)
    }

    pub fn width(&self) -> u32 {
        self.width
    }

    pub fn height(&self) -> u32 {
        self.height
    }

    /// All pixels, `height * width * 3` bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes of one row from the top.
    pub fn row(&self, y: u32) -> &[u8] {
        let stride = self.stride();
        &self.pixels[y as usize * stride..][..stride]
    }

    pub(super) fn row_mut(&mut self, y: u32) -> &mut [u8] {
        let stride = self.stride();
        &mut self.pixels[y as usize * stride..][..stride]
    }

    /// The picture mirrored at its main diagonal: rows become columns.
    #[cfg(test)]
    pub(crate) fn transposed(&self) -> Self {
        let mut turned = Self::new(self.height, self.width, vec![0; self.pixels.len()]);
        let (stride, turned_stride) = (self.stride(), turned.stride());
        for (y, row) in self.pixels.chunks_exact(stride).enumerate() {
            for (x, pixel) in row.chunks_exact(3).enumerate() {
                turned.pixels[x * turned_stride + y * 3..][..3].copy_from_slice(pixel);
            }
        }
        turned
    }

    fn stride(&self) -> usize {
        self.width as usize * 3
    }
}

impl std::fmt::Debug for RgbPicture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbPicture({} x {})", self.width, self.height)
    }
}

fn byte_len(width: u32, height: u32) -> usize {
    width as usize * height as usize * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_turns_rows_into_columns() {
        let picture = RgbPicture::new(2, 1, vec![1, 2, 3, 4, 5, 6]);
        let turned = picture.transposed();
        assert_eq!((turned.width(), turned.height()), (1, 2));
        assert_eq!(turned.row(1), [4, 5, 6]);
        assert_eq!(turned.transposed(), picture);
    }
}
