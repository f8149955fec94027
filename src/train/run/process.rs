//! What a training process sets once: its device, its threads, its allocator.

use tch::Device;

use super::RunError;
use crate::train::config::DeviceConfig;

/// The device that a configuration asks for.
pub fn device(config: DeviceConfig) -> Result<Device, RunError> {
    let count = tch::Cuda::device_count();
    match config {
        DeviceConfig::Auto => Ok(if tch::Cuda::is_available() {
            Device::Cuda(0)
        } else {
            Device::Cpu
        }),
        DeviceConfig::Cpu => Ok(Device::Cpu),
        DeviceConfig::Cuda(n) if tch::Cuda::is_available() && (n as i64) < count => {
            Ok(Device::Cuda(n))
        }
        DeviceConfig::Cuda(_) => Err(RunError::Device {
            device: config.into(),
            count,
        }),
    }
}

/// Keeps freed memory for the next step. By default each large tensor is mapped anew, and clearing its pages costs a small
/// model a good part of its step.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Gives memory that lies free back to the system. Batches of ever new shapes leave gaps behind, which `keep_memory` would
/// let grow; called at each evaluation and checkpoint, this costs the next step some pages to clear.
pub fn release_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim touches memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sets the threads of libtorch and of this program's own loops, and the allocator. Once a process.
pub fn prepare_process(threads: usize) {
    let threads = if threads == 0 {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        threads
    };
    tch::set_num_threads(threads as i32);
    // A second call finds the pool built: then it has the threads of the first.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    keep_memory();
}
