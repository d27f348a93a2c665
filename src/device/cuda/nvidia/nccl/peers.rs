//! Memory that the other members' devices may reach.

use cudarc::driver::{CudaContext, result, sys};

use super::driver;
use crate::Result;

/// Lets the other members' devices, of these numbers, into this one's memory where they can reach it. Within
/// a process NCCL reads and writes arrays of the others in their place, and memory of a pool is its own
/// device's only, unless somebody says otherwise.
pub(super) fn admit(context: &CudaContext, devices: &[usize]) -> Result<()> {
    let own = context.cu_device();
    // SAFETY: the device is there.
    let pool = unsafe { result::device::get_mem_pool(own) }
        .map_err(driver("asking for the device's memory pool"))?;
    for &number in devices.iter().filter(|number| **number != context.ordinal()) {
        let other = result::device::get(number as i32).map_err(driver("asking for a device"))?;
        let mut reaches = 0;
        // SAFETY: both are there; writes one int.
        unsafe { sys::cuDeviceCanAccessPeer(&mut reaches, other, own) }
            .result()
            .map_err(driver("asking whether devices reach each other"))?;
        if reaches == 0 {
            continue;
        }
        let location = sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: other,
        };
        let flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        let access = sys::CUmemAccessDesc { location, flags };
        // SAFETY: the pool is the device's own; one description is read before the call returns.
        unsafe { sys::cuMemPoolSetAccess(pool, &access, 1) }
            .result()
            .map_err(driver("letting another device into this one's memory"))?;
    }
    Ok(())
}
