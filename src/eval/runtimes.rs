//! The table of engines that this program was built with.

use tcd_export::runtime::Runtime;

/// The engines, the default one first.
pub fn runtimes() -> Vec<Box<dyn Runtime>> {
    vec![
        #[cfg(feature = "train")]
        Box::new(crate::model::Tch),
    ]
}

/// The engine of a name, or the default one.
///
/// # Errors
/// The names there are.
pub fn runtime(name: Option<&str>) -> Result<Box<dyn Runtime>, String> {
    let mut rows = runtimes();
    let place = match name {
        None if rows.is_empty() => {
            return Err("this program was built without an engine; hint: build it with one of the features `train`, `ort`, `tract`".to_owned());
        }
        None => 0,
        Some(name) => rows.iter().position(|r| r.name() == name).ok_or_else(|| {
            let names: Vec<&str> = rows.iter().map(|r| r.name()).collect();
            format!(
                "there is no engine `{name}` in this program; it has: {}",
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            )
        })?,
    };
    Ok(rows.swap_remove(place))
}
