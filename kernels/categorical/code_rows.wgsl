// code_rows: y[i] = codes[rows[i]], the row of the embedding table of each listed token, and `mask_row` where masked.
//
//   codes [*]                    u32   0xffffffff where masked
//   rows  [>= offset + count]    u32   token numbers
//   y     [count]                u32
//
// One invocation a row. Grid: ceil(count / 64), folded over y beyond 32768.
requires immediate_address_space;

const MASKED: u32 = 0xffffffff;

struct Params { count: u32, offset: u32, mask_row: u32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.count) { return; }
  let code = codes[rows[params.offset + i]];
  y[i] = select(code, params.mask_row, code == MASKED);
}
