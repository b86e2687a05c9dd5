//! Plots as PNG.

use std::sync::Arc;

use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb::Database},
};

use super::html::PlotFile;

/// The only font, so a plot is the same on every machine.
const FONT: &[u8] = include_bytes!("font/DejaVuSans.ttf");
/// Pixels per user unit.
const SCALE: f32 = 2.0;

impl PlotFile {
    /// The plot as PNG, two pixels per user unit. Characters outside Latin-1 are drawn as boxes.
    #[must_use]
    pub fn png(&self) -> Vec<u8> {
        let mut fonts = Database::new();
        fonts.load_font_data(FONT.to_vec());
        let options =
            Options { fontdb: Arc::new(fonts), font_family: "DejaVu Sans".to_owned(), ..Options::default() };
        let tree = Tree::from_str(&self.svg, &options).expect("a plot is valid SVG");
        let size = tree.size().to_int_size().scale_by(SCALE).expect("a plot has a size");
        let mut pixels = Pixmap::new(size.width(), size.height()).expect("a plot has a size");
        resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
        pixels.encode_png().expect("memory can be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn() {
        let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 20"><style>text{font-family:"DejaVu Sans",Arial}</style>
            <rect width="100%" height="100%" fill="#fff"/><text x="2" y="15">Añ“%”</text></svg>"##;
        let png = PlotFile { name: "a".to_owned(), svg: svg.to_owned() }.png();
        let image = ::image::load_from_memory(&png).unwrap().into_luma8();
        assert_eq!(image.dimensions(), (120, 40));
        let ink = image.pixels().filter(|pixel| pixel.0[0] < 128).count();
        assert!((300..1500).contains(&ink), "{ink} dark pixels");
    }
}
