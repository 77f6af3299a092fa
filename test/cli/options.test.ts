import { InvalidArgumentError } from 'commander';
import { describe, expect, test } from 'vitest';
import type { Io } from '../../src/cli/io.ts';
import {
  finiteNumber,
  interval,
  nearest,
  oneOf,
  parseClasses,
  positiveInteger,
  table,
  wholeNumber,
} from '../../src/cli/options.ts';
import { createProgress, duration } from '../../src/cli/progress.ts';
import { EmigmError } from '../../src/errors.ts';
import { emigm } from '../helpers/cli.ts';

const NAMES = ['dress', 'hat', 'longsleeve', 't-shirt', '7'];

describe('class lists', () => {
  test.each([
    ['dress,hat', [0, 1]],
    [' T-Shirt , dress', [3, 0]],
    ['2,0', [2, 0]],
    ['hat,1,hat', [1]],
    ['7', [4]], // a name comes before a number
    ['all', [0, 1, 2, 3, 4]],
  ])('%s', (text, expected) => {
    expect(parseClasses(text, 5, NAMES)).toEqual(expected);
  });

  test.each([
    ['dres', 'class "dres" is unknown; numbers are 0 to 4. Did you mean dress?'],
    ['tshirt,hat', 'Did you mean t-shirt?'],
    ['5', 'class "5" is unknown; numbers are 0 to 4'],
    ['-1', 'class "-1" is unknown'],
    ['1.5', 'class "1.5" is unknown'],
    ['dress,,hat', 'has an empty entry'],
    ['', 'has an empty entry'],
  ])('refuses "%s"', (text, message) => {
    expect(() => parseClasses(text, 5, NAMES)).toThrow(EmigmError);
    expect(() => parseClasses(text, 5, NAMES)).toThrow(message);
  });

  test('a model without names takes numbers only', () => {
    expect(parseClasses('207,3', 1000)).toEqual([207, 3]);
    expect(() => parseClasses('dress', 1000)).toThrow('this model has no class names, numbers are 0 to 999');
  });
});

test('nearest name: fewest edits, none when all are far', () => {
  expect(nearest('shrit', ['shirt', 'shorts', 'skirt'])).toBe('shirt');
  expect(nearest('elephant', ['shirt', 'hat'])).toBeUndefined();
  expect(nearest('x', ['a'])).toBeUndefined();
});

describe('numbers', () => {
  test('accepted', () => {
    expect(positiveInteger('16')).toBe(16);
    expect(wholeNumber('0')).toBe(0);
    expect(finiteNumber('-2.5e-1')).toBe(-0.25);
    expect(interval('0.1,0.3')).toEqual([0.1, 0.3]);
    expect(interval('0,1')).toEqual([0, 1]);
    expect(oneOf(['ddpm', 'dpm-solver'])('ddpm')).toBe('ddpm');
  });

  test.each<[(text: string) => unknown, string[], string]>([
    [positiveInteger, ['0', '-1', '1.5', '', 'x', '1e3', '99999999999999999999'], 'positive whole number'],
    [wholeNumber, ['-1', '0x10', '', '2.0'], 'whole number'],
    [finiteNumber, ['', ' ', 'x', 'NaN', 'Infinity'], 'must be a number'],
    [interval, ['0.1', '0.1,0.2,0.3', 'a,b', ',', '0.1,', '-0.1,0.5', '0,1.1'], 'two numbers between 0 and 1'],
    [interval, ['0.3,0.1'], 'reversed; give 0.1,0.3'],
    [oneOf(['ddpm', 'dpm-solver']), ['dpm_solver'], 'one of ddpm, dpm-solver. Did you mean dpm-solver?'],
  ])('refused by %o', (parse, texts, message) => {
    for (const text of texts) {
      expect(() => parse(text), text).toThrow(InvalidArgumentError);
      expect(() => parse(text), text).toThrow(message);
    }
  });
});

test('table: columns line up', () => {
  expect(
    table(
      [
        ['a', '1', 'x'],
        ['bbb', '200', ''],
      ],
      [1],
    ),
  ).toBe('a      1  x\nbbb  200');
});

describe('progress', () => {
  const lines: string[] = [];
  const io: Io = {
    out: () => {},
    err: (line) => lines.push(line),
    columns: undefined,
    signal: new AbortController().signal,
  };

  test('without a terminal: lines after two seconds, not too many, with the time left', () => {
    let time = 0;
    lines.length = 0;
    const progress = createProgress(io, { label: 'converting', total: 100, now: () => time });
    for (let done = 1; done <= 100; done++) {
      time += 100;
      progress.update(done, `part ${done}`);
    }
    progress.stop();
    expect(lines).toEqual(['converting: 20%, 8 s left, part 20', 'converting: 70%, 3 s left, part 70']);
  });

  test('the time left is told when enough is done to tell it', () => {
    let time = 2500;
    lines.length = 0;
    const progress = createProgress(io, { label: 'loading', total: 1000, now: () => time });
    for (const done of [0, 1, 2, 100]) {
      time += 6000;
      progress.update(done);
    }
    expect(lines).toEqual([
      'loading: 0%, some time left',
      'loading: 0%, some time left',
      'loading: 0%, some time left',
      'loading: 10%, 3 min 36 s left',
    ]);
    time += 60_000;
    progress.update(4);
    expect(lines.at(-1)).toMatch(/^loading: 0%, 5 h \d+ min left$/);
    progress.stop();
  });

  test('quiet, or done within two seconds: nothing', () => {
    let time = 0;
    lines.length = 0;
    for (const quiet of [true, false]) {
      const progress = createProgress(io, { label: 'x', total: 10, quiet, now: () => (time += quiet ? 1000 : 10) });
      for (let done = 1; done <= 10; done++) progress.update(done);
      progress.stop();
    }
    expect(lines).toEqual([]);
  });

  test('durations', () => {
    expect([0.4, 59.6, 200, 7500].map(duration)).toEqual(['0 s', '1 min 0 s', '3 min 20 s', '2 h 5 min']);
  });
});

test('help of every command fits 80 columns, addresses aside', async () => {
  const help = async (argv: string[]): Promise<string[]> => {
    const { out } = await emigm([...argv, '--help']);
    const [, listed = ''] = out.split(/^Commands:$/m);
    const names = [...listed.split('\n\n')[0].matchAll(/^ {2}([a-z][a-z-]+) /gm)]
      .map(([, name]) => name)
      .filter((name) => name !== 'help');
    return [out, ...(await Promise.all(names.map((name) => help([...argv, name])))).flat()];
  };
  const pages = await help([]);
  expect(pages.length).toBeGreaterThan(20);
  const lines = pages.flatMap((page) => page.split('\n'));
  expect(lines.filter((line) => line.length > 80 && !line.includes('https://'))).toEqual([]);
});
