// Found only where libtorch's own header is not: the last folder that the compiler searches (`.cargo/config.toml`).
#error "libtorch is missing, hint: run `cargo xtask setup`, or build with `--no-default-features`"
