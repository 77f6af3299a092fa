import { describe, expect, it } from 'vitest';
import { type LearningRateSchedule, learningRate } from '../../src/training/schedule.ts';
import { describeGolden, expectClose } from '../helpers/golden.ts';

describeGolden('lr_schedule', (golden) => {
  const args: { warmup_epochs: number; lr: number; min_lr: Record<string, number>; epochs: number } =
    golden.meta('args');
  const kinds = golden.names('lr_').map((name) => name.slice('lr_'.length) as LearningRateSchedule['kind']);
  it('has schedules', () => expect(kinds.length).toBeGreaterThan(0));
  it.each(kinds)('%s', (kind) => {
    const schedule = {
      kind,
      peak: args.lr,
      least: args.min_lr[kind],
      warmup: args.warmup_epochs,
      total: args.epochs,
    };
    const rates = golden.f64('epoch').map((epoch) => learningRate(schedule, epoch));
    expectClose(rates, golden.f64(`lr_${kind}`), { relative: 1e-12 }, kind);
  });
});

describe('learning rate', () => {
  const schedule: LearningRateSchedule = { kind: 'cosine', peak: 2, least: 0.5, warmup: 4, total: 12 };
  it('rises to the peak, falls to the least and stays there', () => {
    const rates = [0, 2, 4, 8, 12, 20].map((at) => learningRate(schedule, at));
    expectClose(rates, [0, 1, 2, 1.25, 0.5, 0.5], { absolute: 1e-12 });
  });
  it('needs no warm-up and no time to fall', () => {
    expect(learningRate({ ...schedule, warmup: 0 }, 0)).toBe(2);
    expect(learningRate({ ...schedule, warmup: 0, total: 0 }, 0)).toBe(0.5);
    expect(learningRate({ ...schedule, kind: 'constant' }, 100)).toBe(2);
  });
});
