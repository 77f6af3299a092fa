import { defineConfig } from 'vitest/config';

// What passes here must pass on a bare machine, so the embedded CPU driver is the default.
process.env.EMIGM_ADAPTER ??= 'swiftshader';
process.env.EMIGM_TUNING ??= 'off'; // nor what was measured on this machine
process.env.EMIGM_ROBUST ??= '1'; // an access out of range must not go unseen

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    teardownTimeout: 10_000,
  },
});
