//! NVIDIA GPUs: what this machine has.
//!
//! The only crate that may touch a GPU. The CUDA driver is looked for when the program runs, never when it is built, so
//! one binary serves machines with and without a GPU. So far it only finds the devices: models run on the CPU, and the
//! start-up table tells a user whose GPU stays idle so.

use std::ffi::{CStr, c_char, c_int, c_uint};

use libloading::{Library, Symbol};

/// A GPU the driver reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As the driver names it.
    pub name: String,
    /// Bytes of device memory.
    pub memory_bytes: usize,
}

/// Why no GPU can be listed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no driver library on this machine.
    #[error("no CUDA driver is installed")]
    NoDriver,
    /// The driver library lacks a function every supported version has.
    #[error("the CUDA driver has no function {0}; update the driver")]
    MissingFunction(&'static str),
    /// A driver call failed.
    #[error("the CUDA driver answered {function} with error {code}")]
    Call {
        /// The driver function.
        function: &'static str,
        /// Its `CUresult`.
        code: c_int,
    },
}

type Init = unsafe extern "C" fn(c_uint) -> c_int;
type GetCount = unsafe extern "C" fn(*mut c_int) -> c_int;
type GetDevice = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type GetName = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type TotalMemory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;

const NAME_BYTES: usize = 128;

/// Lists the GPUs of this machine through the CUDA driver.
///
/// # Errors
/// When there is no driver, or the driver does not answer; never a reason to stop serving on the CPU.
pub fn devices() -> Result<Vec<Device>, ProbeError> {
    // SAFETY: loading the vendor's driver runs its initialisers; that is the documented way to reach it, and it happens
    // once, from the main thread, before any other thread uses the library.
    let library = unsafe { Library::new("libcuda.so.1") }.map_err(|_| ProbeError::NoDriver)?;
    // Once initialised it stays: unloading a driver whose threads may still run is asking for a crash.
    let library = Box::leak(Box::new(library));
    let init: Symbol<'_, Init> = function(library, "cuInit")?;
    let get_count: Symbol<'_, GetCount> = function(library, "cuDeviceGetCount")?;
    // SAFETY: cuInit takes flags that must be 0.
    checked("cuInit", unsafe { init(0) })?;
    let mut count = 0;
    // SAFETY: the driver writes one int.
    checked("cuDeviceGetCount", unsafe { get_count(&raw mut count) })?;
    (0..count).map(|ordinal| device(library, ordinal)).collect()
}

fn device(library: &Library, ordinal: c_int) -> Result<Device, ProbeError> {
    let get_device: Symbol<'_, GetDevice> = function(library, "cuDeviceGet")?;
    let get_name: Symbol<'_, GetName> = function(library, "cuDeviceGetName")?;
    let total_memory: Symbol<'_, TotalMemory> = function(library, "cuDeviceTotalMem_v2")?;
    let mut handle = 0;
    // SAFETY: the driver writes one device handle for an ordinal below the count it gave.
    checked("cuDeviceGet", unsafe { get_device(&raw mut handle, ordinal) })?;
    let mut name = [0 as c_char; NAME_BYTES];
    let room = c_int::try_from(NAME_BYTES).unwrap_or(c_int::MAX) - 1;
    // SAFETY: the buffer holds `room` bytes and one more, which stays zero and ends the string.
    checked("cuDeviceGetName", unsafe { get_name(name.as_mut_ptr(), room, handle) })?;
    let mut memory_bytes = 0;
    // SAFETY: the driver writes one size.
    checked("cuDeviceTotalMem", unsafe { total_memory(&raw mut memory_bytes, handle) })?;
    // SAFETY: the last byte of the buffer was never written and is zero, so the string ends inside it.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Ok(Device { name: name.to_string_lossy().into_owned(), memory_bytes })
}

fn function<'lib, F>(
    library: &'lib Library,
    name: &'static str,
) -> Result<Symbol<'lib, F>, ProbeError> {
    // SAFETY: the callers name each function with the type of the CUDA driver API reference.
    unsafe { library.get(name.as_bytes()) }.map_err(|_| ProbeError::MissingFunction(name))
}

fn checked(function: &'static str, code: c_int) -> Result<(), ProbeError> {
    if code == 0 { Ok(()) } else { Err(ProbeError::Call { function, code }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_is_told_so_and_one_with_it_lists_named_devices() {
        match devices() {
            Ok(devices) => {
                assert!(devices.iter().all(|d| !d.name.is_empty() && d.memory_bytes > 0));
            }
            Err(error) => assert!(error.to_string().contains("CUDA driver"), "{error}"),
        }
    }
}
