//! The first image of a GIF, as Pillow shows it.

use std::io::Cursor;

use image::RgbImage;

use super::decode::{Reason, check_length, check_size, reason};

/// Decodes the first image. The canvas grows to hold an image that extends beyond it. Pixels outside the
/// image get the transparent colour, or else the first one. Indexes beyond the palette are black, or grey if
/// the palette maps each index to its own grey value.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Reason> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(reason)?;
    let frame = decoder.next_frame_info().map_err(reason)?.ok_or("it holds no image")?;
    let [left, top, frame_width, frame_height] =
        [frame.left, frame.top, frame.width, frame.height].map(u32::from);
    let background = frame.transparent.unwrap_or(0);
    let local = frame.palette.clone();
    let width = (left + frame_width).max(decoder.width().into());
    let height = (top + frame_height).max(decoder.height().into());
    check_size((width, height), 3)?;
    check_length((width, height), bytes.len())?;
    let mut indexes = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indexes).map_err(reason)?;
    let palette = local.as_deref().or(decoder.global_palette()).unwrap_or_default().as_chunks().0;
    let is_grey = (0..).zip(palette).all(|(index, &colour)| colour == [index; 3]);
    let colour = |index: u8| {
        let beyond = if is_grey { [index; 3] } else { [0; 3] };
        image::Rgb(palette.get(usize::from(index)).copied().unwrap_or(beyond))
    };
    let mut canvas = RgbImage::from_pixel(width, height, colour(background));
    if frame_width > 0 {
        for (y, row) in (top..).zip(indexes.chunks_exact(frame_width as usize)) {
            for (x, &index) in (left..).zip(row) {
                canvas.put_pixel(x, y, colour(index));
            }
        }
    }
    Ok(canvas)
}
