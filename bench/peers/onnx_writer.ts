/** Writes ONNX files: as much of the protocol buffers format as a graph of standard operators needs. */

/** Tensors, by ONNX's numbers: 1 is f32, 7 is int64. */
export type OnnxData = Float32Array | BigInt64Array;
type Attribute = number | string | readonly number[] | { float: number };

const text = new TextEncoder();

function join(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    const low = Number(rest & 127n);
    rest >>= 7n;
    bytes.push(rest > 0n ? low | 128 : low);
  } while (rest > 0n);
  return Uint8Array.from(bytes);
}

const integer = (field: number, value: number) => [varint(field << 3), varint(value)];
const bytes = (field: number, value: Uint8Array) => [varint((field << 3) | 2), varint(value.length), value];
const string = (field: number, value: string) => bytes(field, text.encode(value));
const message = (field: number, parts: readonly Uint8Array[]) => bytes(field, join(parts));
const float = (field: number, value: number) => [
  varint((field << 3) | 5),
  new Uint8Array(Float32Array.of(value).buffer),
];

function attribute(name: string, value: Attribute): Uint8Array[] {
  const head = string(1, name);
  if (typeof value === 'string') return [...head, ...string(4, value), ...integer(20, 3)];
  if (typeof value === 'number') return [...head, ...integer(3, value), ...integer(20, 2)];
  if ('float' in value) return [...head, ...float(2, value.float), ...integer(20, 1)];
  return [...head, ...value.flatMap((one) => integer(8, one)), ...integer(20, 7)];
}

/** A graph under construction. */
export class OnnxWriter {
  private readonly nodes: Uint8Array[] = [];
  private readonly initializers: Uint8Array[] = [];
  private readonly inputs: Uint8Array[] = [];
  private names = 0;

  /** A node of one output; returns the output's name. */
  node(operator: string, inputs: readonly string[], attributes: Readonly<Record<string, Attribute>> = {}): string {
    const output = `v${this.names++}`;
    this.nodes.push(
      ...message(1, [
        ...inputs.flatMap((name) => string(1, name)),
        ...string(2, output),
        ...string(4, operator),
        ...Object.entries(attributes).flatMap(([name, value]) => message(5, attribute(name, value))),
      ]),
    );
    return output;
  }

  constant(shape: readonly number[], data: OnnxData): string {
    const name = `c${this.names++}`;
    const type = data instanceof Float32Array ? 1 : 7;
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const parts = [
      ...shape.flatMap((size) => integer(1, size)),
      ...integer(2, type),
      ...string(8, name),
      ...bytes(9, raw),
    ];
    this.initializers.push(...message(5, parts));
    return name;
  }

  /** An f32 input. */
  input(name: string, shape: readonly number[]): string {
    this.inputs.push(...message(11, valueInfo(name, shape)));
    return name;
  }

  /** The file, for operators of opset 20. */
  finish(output: string, shape: readonly number[]): Uint8Array<ArrayBuffer> {
    const graph = [
      ...this.nodes,
      ...string(2, 'work'),
      ...this.initializers,
      ...this.inputs,
      ...message(12, valueInfo(output, shape)),
    ];
    const opset = [...string(1, ''), ...integer(2, 20)];
    return join([...integer(1, 9), ...message(7, graph), ...message(8, opset)]);
  }
}

function valueInfo(name: string, shape: readonly number[]): Uint8Array[] {
  const dimensions = shape.flatMap((size) => message(1, integer(1, size)));
  const tensor = [...integer(1, 1), ...message(2, dimensions)];
  return [...string(1, name), ...message(2, message(1, tensor))];
}
