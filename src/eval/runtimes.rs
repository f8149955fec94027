//! The table of engines that this program was built with.

use tcd_export::runtime::Runtime;

/// The engines, in the order in which they are preferred.
pub fn runtimes() -> Vec<Box<dyn Runtime>> {
    vec![
        #[cfg(feature = "train")]
        Box::new(crate::model::Tch),
        #[cfg(feature = "ort")]
        Box::new(tcd_export::runtime::ort::Ort::new(onnxruntime())),
        Box::new(tcd_export::runtime::tract::Tract),
    ]
}

/// The library of onnxruntime.
#[cfg(feature = "ort")]
fn onnxruntime() -> Option<std::path::PathBuf> {
    let loaded = crate::machine::loaded_libraries();
    crate::machine::onnxruntime(&loaded).map(|library| library.path)
}

/// The engine of a name, or the first that can be used here.
///
/// # Errors
/// The names there are.
pub fn runtime(name: Option<&str>) -> Result<Box<dyn Runtime>, String> {
    let mut rows = runtimes();
    let place = match name {
        None => rows.iter().position(|row| row.check().is_ok()).unwrap_or(0),
        Some(name) => rows
            .iter()
            .position(|row| row.name() == name)
            .ok_or_else(|| {
                let names: Vec<&str> = rows.iter().map(|row| row.name()).collect();
                format!(
                    "there is no engine `{name}` in this program; it has: {}",
                    names.join(", ")
                )
            })?,
    };
    Ok(rows.swap_remove(place))
}
