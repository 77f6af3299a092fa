/** Opening a device whose kernels can be relied on. */
import { readMatrixCheck, writeMatrixCheck } from '../gpu/adapter_cache.ts';
import { Device, type DeviceOptions } from '../gpu/device.ts';
import { matrixShape } from './matmul_kernels.ts';

/** As `Device.open`; kernels that multiply subgroup matrices are left out where they are not right, see `checkMatrices`. */
export async function openDevice(options?: DeviceOptions): Promise<Device> {
  const device = await Device.open(options);
  try {
    await checkMatrices(device);
    return device;
  } catch (error) {
    device.dispose();
    throw error;
  }
}

/**
 * Subgroup matrices (tensor cores) are an experiment of Dawn's, and drivers differ. Where a device has them, all tiles of
 * the kernels that use them are compared with the float64 oracle once for each driver and version of the kernels; what
 * was found is kept in the cache folder. If one is wrong or does not compile, the device does without.
 * @throws EmigmError 'adapter' when the device is lost over it
 */
export async function checkMatrices(device: Device): Promise<void> {
  if (device.isPlan || !matrixShape(device)) return;
  let wrong = readMatrixCheck(device.opened);
  if (wrong === undefined) {
    // Loaded where it is needed: it knows all ops.
    const { firstWrong } = await import('./matrix_check.ts');
    wrong = await firstWrong(device);
    writeMatrixCheck(device.opened, wrong);
  }
  if (wrong !== '') device.leaveOutMatrices(wrong);
}
