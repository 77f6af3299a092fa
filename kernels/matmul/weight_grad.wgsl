// weight gradient of a linear layer (GPUs, any adapter): dw = dy^T . x, a sum over the rows.
//
//   dy   [m, n]  Elem   row-major
//   x    [m, k]  Elem
//   dw   [n, k]  f32    PyTorch's layout [out, in]; written, added to when ACCUMULATE
//
// tiled.wgsl with the sum over the rows of both operands; any m, k, n. A workgroup (16 x 16) makes TILE_ROWS rows of
// dw x TILE_COLUMNS columns, an invocation 4 ROW_QUADS x 4 COLUMN_QUADS. Both operands are read along their rows,
// so neighbours read neighbours.
// Grid: ceil(k / TILE_COLUMNS) x ceil(n / TILE_ROWS), TILE_ROWS = 64 ROW_QUADS, TILE_COLUMNS = 64 COLUMN_QUADS.
// Workgroup memory: 4 TILE_M (TILE_ROWS + TILE_COLUMNS) bytes: 8192 as it stands.
requires immediate_address_space;

alias Elem = f32;  // f16: storage of dy, x
const ROW_QUADS: u32 = 1;
const COLUMN_QUADS: u32 = 1;
const TILE_M: u32 = 16;

const TILE_ROWS: u32 = 64 * ROW_QUADS;
const TILE_COLUMNS: u32 = 64 * COLUMN_QUADS;

override ACCUMULATE: bool = false;

struct Params { m: u32, k: u32, n: u32 }

@group(0) @binding(0) var<storage, read> dy: array<Elem>;
@group(0) @binding(1) var<storage, read> x: array<Elem>;
@group(0) @binding(2) var<storage, read_write> dw: array<f32>;
var<immediate> params: Params;

// [row of the sum][column / 4]
var<workgroup> dy_tile: array<array<vec4f, TILE_ROWS / 4>, TILE_M>;
var<workgroup> x_tile: array<array<vec4f, TILE_COLUMNS / 4>, TILE_M>;

fn load_dy(m: u32, column: u32) -> f32 {
  if (m >= params.m || column >= params.n) { return 0.0; }
  return f32(dy[m * params.n + column]);
}

fn load_x(m: u32, column: u32) -> f32 {
  if (m >= params.m || column >= params.k) { return 0.0; }
  return f32(x[m * params.k + column]);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let first_row = group.y * TILE_ROWS;
  let first_column = group.x * TILE_COLUMNS;
  // Row quad i of an invocation is quad local.y + 16 i of the tile, column quad j is local.x + 16 j.
  var acc: array<array<mat4x4f, COLUMN_QUADS>, ROW_QUADS>;

  for (var start = 0u; start < params.m; start += TILE_M) {
    for (var i = index; i < TILE_M * TILE_ROWS / 4; i += 256) {
      let m = start + i / (TILE_ROWS / 4);
      let quad = i % (TILE_ROWS / 4);
      let column = first_row + quad * 4;
      dy_tile[m - start][quad] = vec4f(load_dy(m, column), load_dy(m, column + 1), load_dy(m, column + 2), load_dy(m, column + 3));
    }
    for (var i = index; i < TILE_M * TILE_COLUMNS / 4; i += 256) {
      let m = start + i / (TILE_COLUMNS / 4);
      let quad = i % (TILE_COLUMNS / 4);
      let column = first_column + quad * 4;
      x_tile[m - start][quad] = vec4f(load_x(m, column), load_x(m, column + 1), load_x(m, column + 2), load_x(m, column + 3));
    }
    workgroupBarrier();

    for (var m = 0u; m < TILE_M; m++) {
      for (var i = 0u; i < ROW_QUADS; i++) {
        let rows = dy_tile[m][local.y + 16 * i];
        for (var j = 0u; j < COLUMN_QUADS; j++) {
          let columns = x_tile[m][local.x + 16 * j];
          acc[i][j] += mat4x4f(rows.x * columns, rows.y * columns, rows.z * columns, rows.w * columns);
        }
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < ROW_QUADS; i++) {
    for (var j = 0u; j < COLUMN_QUADS; j++) {
      for (var r = 0u; r < 4; r++) {
        for (var c = 0u; c < 4; c++) {
          let row = first_row + (local.y + 16 * i) * 4 + r;
          let column = first_column + (local.x + 16 * j) * 4 + c;
          if (row < params.n && column < params.k) {
            let at = row * params.k + column;
            var sum = acc[i][j][r][c];
            if (ACCUMULATE) { sum += dw[at]; }
            dw[at] = sum;
          }
        }
      }
    }
  }
}
