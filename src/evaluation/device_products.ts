/** Inner products of rows of features on a device, for precision and recall of many images. */
import type { Device } from '../gpu/device.ts';
import type { Program } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { createLinear, destroyLinear, linear } from '../ops/matmul.ts';
import type { RowProducts } from './precision_recall.ts';

interface Prepared {
  program: Program;
  x: Tensor;
  y: Tensor;
}

/** Products in float32: the rows held are the weights of a linear layer. */
export function deviceProducts(device: Device): RowProducts {
  return {
    block: [1024, 4096],
    hold(b, dimensions) {
      const count = b.length / dimensions;
      const layer = createLinear(device, 'rows held', [count, dimensions], b);
      const session = new Session(device);
      const prepared = new Map<number, Prepared>();
      const prepare = async (rows: number): Promise<Prepared> => {
        const x = device.tensor([rows, dimensions], 'f32', 'rows');
        const y = device.tensor([rows, count], 'f32', 'products');
        const program = session.record('products', (r) => {
          linear(r, x, layer, { out: y });
        });
        await session.prepare();
        prepared.set(rows, { program, x, y });
        return { program, x, y };
      };
      return {
        async times(a) {
          const rows = a.length / dimensions;
          const { program, x, y } = prepared.get(rows) ?? (await prepare(rows));
          device.write(x, a);
          session.run(program);
          return device.read(y);
        },
        release() {
          session.dispose();
          for (const { x, y } of prepared.values()) {
            x.destroy();
            y.destroy();
          }
          destroyLinear(layer);
        },
      };
    },
  };
}
