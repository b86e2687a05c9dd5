//! A page of results as HTML, and their plots as SVG and PNG.

mod content;
mod figures;
mod html;
mod name;
mod pca;
mod places;
mod plot;
mod raster;
mod words;

pub use content::{Page, Projection, Provenance, RunLog, Subject, THUMBNAIL, Thumbnail};
pub use html::PlotFile;
