/** Running passes of autoencoders in tests. */
import type { Device } from '../../src/gpu/device.ts';
import type { Recorder } from '../../src/gpu/recorder.ts';
import { Session } from '../../src/gpu/session.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { imageLayout } from '../../src/ops/image.ts';

/** Names a tensor whose numbers the test wants; `layout` is how it lies. */
export type Keep = (name: string, x: Tensor, layout?: 'planes' | 'last') => void;

type Build = (r: Recorder, input: (data: Float32Array, shape: readonly number[]) => Tensor, keep: Keep) => void;

/** Numbers of a program's tensors in planes, as PyTorch has them, by name; `build` names those to read. */
export async function runPass(device: Device, build: Build): Promise<Map<string, Float32Array>> {
  const session = new Session(device);
  const inputs: Tensor[] = [];
  const kept = new Map<string, Tensor>();
  const program = session.record('vae', (r) => {
    const input = (data: Float32Array, shape: readonly number[]) => {
      inputs.push(device.tensor(shape, 'f32', 'input', data));
      return inputs.at(-1)!;
    };
    build(r, input, (name, x, layout = 'last') => {
      const [b, h, w, c] = layout === 'last' ? x.shape : [x.shape[0], x.shape[2], x.shape[3], x.shape[1]];
      const poison = new Float32Array(x.size).fill(Number.NaN);
      const out = device.tensor([b, c, h, w], 'f32', name, poison);
      kept.set(name, imageLayout(r, x, layout, 'planes', { out }));
    });
  });
  await session.prepare();
  session.run(program);
  const numbers = new Map<string, Float32Array>();
  for (const [name, tensor] of kept) numbers.set(name, await device.read(tensor));
  session.dispose();
  for (const tensor of [...inputs, ...kept.values()]) tensor.destroy();
  return numbers;
}
