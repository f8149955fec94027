//! A child process: started with a log, asked to stop, ended.
//!
//! On Unix a child is a process group of its own, so that a Ctrl-C at the terminal reaches this process alone, which passes it
//! on once; on Linux it is also asked to stop where this process is killed, so that none goes on behind its back. Children must
//! be started from the thread that lives as long as the process.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A child at work.
#[derive(Debug)]
pub struct Process {
    child: Child,
    asked: bool,
}

impl Process {
    /// Starts a program; what it prints goes to `printed`, or else with what it says to `log`.
    pub fn start(
        program: &Path,
        arguments: &[String],
        log: File,
        printed: Option<File>,
    ) -> io::Result<Process> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(match printed {
            Some(file) => file,
            None => log.try_clone()?,
        });
        command.stderr(log);
        if let Some((name, value)) = quiet_threads() {
            command.env(name, value);
        }
        apart(&mut command);
        Ok(Process {
            child: command.spawn()?,
            asked: false,
        })
    }

    /// Its end, where it has come to it.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to save and stop, once.
    pub fn ask_to_stop(&mut self) {
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        #[cfg(unix)]
        // SAFETY: a signal to a child that was not waited for yet, so that its id is its own.
        unsafe {
            libc::kill(self.child.id().cast_signed(), libc::SIGINT);
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Where it has ended already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Bounds how long libtorch's threads spin, as `tcd pretrain` does, unless the user has a say in it.
fn quiet_threads() -> Option<(&'static str, &'static str)> {
    let set = |name| std::env::var_os(name).is_some();
    let own = set("GOMP_SPINCOUNT") || set("OMP_WAIT_POLICY");
    (!own).then_some(("GOMP_SPINCOUNT", "1000"))
}

#[cfg(unix)]
fn apart(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec the closure makes one system call, which allocates nothing.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT as libc::c_ulong);
            Ok(())
        });
    }
}

#[cfg(not(unix))]
fn apart(_: &mut Command) {}
