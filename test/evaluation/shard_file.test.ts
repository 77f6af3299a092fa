/** Sums of shards: any split of the images gives the same statistics, to the bit. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { ImageSet } from '../../src/evaluation/collect.ts';
import { Moments } from '../../src/evaluation/moments.ts';
import {
  emptySet,
  joinSets,
  mergeShards,
  readShard,
  type ShardAbout,
  writeShard,
} from '../../src/evaluation/shard_file.ts';
import { writeNpz } from '../../src/formats/npz.ts';
import { completeSet, shardName, shardRange } from '../../src/sampling/shards.ts';
import { random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-shards-'));
const at = (name: string) => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const [D, S, C, N] = [5, 3, 4, 41];
const extractor = {
  ...{ name: 'made up', isInception: false, dimensions: D, classes: C, spatialDimensions: S, range: 64 },
};
const rng = random();
const [features, spatial, logits] = [D, S, C].map((width) => rng.normal(N * width));

function setOf(first: number, end: number): ImageSet {
  const [moments, spatialMoments] = [new Moments(D), new Moments(S)];
  moments.add(features.slice(first * D, end * D));
  spatialMoments.add(spatial.slice(first * S, end * S));
  return { count: end - first, moments, spatial: spatialMoments, logits: logits.slice(first * C, end * C) };
}

const about = (first: number, end: number, seed = 0): ShardAbout => {
  const run = JSON.stringify({ model: 'a', settings: { steps: 4, seed } });
  return { version: 1, extractor, weights: 'abc', run, images: N, first, end };
};

describe('shards', () => {
  it('ranges cover all images once, in order and evenly', () => {
    for (const [total, count] of [
      [41, 7],
      [3, 5],
      [8, 8],
      [0, 2],
      [50_000, 13],
    ]) {
      const ranges = Array.from({ length: count }, (_, index) => shardRange(total, { index, count }));
      expect(ranges[0].first).toBe(0);
      expect(ranges.at(-1)!.end).toBe(total);
      for (let i = 1; i < count; i++) expect(ranges[i].first).toBe(ranges[i - 1].end);
      const sizes = ranges.map(({ first, end }) => end - first);
      expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
    }
  });

  it('a set of files is complete, or the missing ones are named', () => {
    const names = [2, 0, 1].map((index) => shardName({ index, count: 3 }, 'npz'));
    expect(completeSet([...names, 'x.png'], 'npz', 'here')).toEqual([...names].sort());
    expect(completeSet(names, 'json', 'here')).toBeUndefined();
    expect(() => completeSet(names.slice(0, 1), 'npz', 'here')).toThrow(/shards 0, 1 of 3 .* --shard 0\/3/);
    expect(() => completeSet([...names, 'shard-000-of-004.npz'], 'npz', 'here')).toThrow(/of 3 and of 4/);
  });
});

describe('sums', () => {
  it.each([1, 2, 7])('of %d shards add up to those of all images', async (count) => {
    const paths: string[] = [];
    for (let index = 0; index < count; index++) {
      const { first, end } = shardRange(N, { index, count });
      // In two parts, as a run that was stopped leaves them.
      const middle = Math.floor((first + end) / 2);
      const half = { about: about(first, end), set: joinSets(emptySet(extractor), setOf(first, middle)) };
      paths.push(at(`${count}-${index}.npz`));
      await writeShard(paths[index], half);
      const kept = await readShard(paths[index]);
      expect([kept.set.count, kept.about]).toEqual([middle - first, half.about]);
      await writeShard(paths[index], { about: half.about, set: joinSets(kept.set, setOf(middle, end)) });
    }
    const { set } = await mergeShards(paths);
    const whole = setOf(0, N);
    expect(set.count).toBe(N);
    expect(set.moments.statistics()).toEqual(whole.moments.statistics());
    expect(set.spatial!.statistics()).toEqual(whole.spatial!.statistics());
    expect(set.logits).toEqual(logits);
  });

  it('of different runs, unfinished ones and damaged ones are told', async () => {
    await writeShard(at('a.npz'), { about: about(0, 20), set: setOf(0, 20) });
    await writeShard(at('b.npz'), { about: about(20, 41), set: setOf(20, 30) });
    const unfinished: number[] = [];
    await mergeShards([at('a.npz'), at('b.npz')], (index) => unfinished.push(index));
    expect(unfinished).toEqual([1]);
    await writeShard(at('c.npz'), { about: about(20, 41, 1), set: setOf(20, 41) });
    await expect(mergeShards([at('a.npz'), at('c.npz')])).rejects.toThrow(
      /c\.npz is of another run than .*settings\.seed differs/,
    );
    await writeNpz(at('d.npz'), { mu: { dtype: 'F64', shape: [1], data: Float64Array.of(1) } });
    await expect(readShard(at('d.npz'))).rejects.toThrow(/holds no sums of a shard; remove it and run the shard again/);
  });
});
