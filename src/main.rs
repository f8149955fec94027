//! The `tcd` program: parse, dispatch, exit code (0 done, 1 a check failed, 2 an error).

use std::process::ExitCode;

fn main() -> ExitCode {
    tcd::cli::main()
}
