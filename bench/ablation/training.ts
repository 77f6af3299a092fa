/** One training of the ablation, in a run folder as `emigm train` has them: it goes on where it was stopped. */
import { makeRunFolder, runFile } from '../../src/formats/run_folder.ts';
import { openStepLog, readStepLog } from '../../src/formats/step_log.ts';
import type { Device } from '../../src/gpu/device.ts';
import { EmigmError } from '../../src/errors.ts';
import { openTrainingData } from '../../src/training/data/open.ts';
import { train } from '../../src/training/loop.ts';
import { TrainingRun } from '../../src/training/run.ts';
import { modelFor, parseRunConfig } from '../../src/training/run_config.ts';
import { continuousModel } from '../../src/training/run_model.ts';
import { type HyperparameterInput, resolveSettings } from '../../src/training/settings.ts';

export interface AblationTraining {
  /** Of the run. */
  folder: string;
  /** A shard of pictures. */
  data: string;
  /** Text of the configuration, and in what it differs. */
  network: string;
  changes: HyperparameterInput;
  signal?: AbortSignal;
  onStep?: (step: number) => void;
}

/**
 * Trains to the end; the averaged weights lie in `model.safetensors`. Returns the mean loss of the last tenth.
 * @throws EmigmError 'aborted' after saving, 'numeric' when a loss is not finite
 */
export async function trainOnce(device: Device, options: AblationTraining): Promise<number> {
  const { folder, data: path, network, changes, signal, onStep } = options;
  const config = parseRunConfig(network, changes, 'network.json');
  const { batch, seed, flip } = config.hyperparameters;
  const { channels, imageSize } = config.model;
  const data = await openTrainingData(path, {
    ...{ batch, seed, channels, size: imageSize, flip, threads: 1, signal },
    dataScale: config.dataScale ?? 'unit-variance',
  });
  let run: TrainingRun | undefined;
  try {
    const { size, classes, scale } = data;
    const settings = resolveSettings(config.hyperparameters, size);
    const model = continuousModel(modelFor(config, classes));
    const info = { ...config.info, classNames: [...classes], dataScale: scale };
    await makeRunFolder(folder);
    run = await TrainingRun.open(device, { folder, model, settings, info, data: { size, classes, scale } }, true);
    const { from, trainer } = run;
    const { steps, saveEvery } = settings;
    const log = await openStepLog(runFile(folder, 'log.jsonl'), from);
    try {
      const taken = await train(trainer, {
        data,
        from,
        until: steps,
        signal,
        pauseAt: (step) => step % saveEvery === 0,
        onStep: (record) => {
          log.append({ ...record });
          onStep?.(record.step);
        },
        onPause: async (step) => {
          await run!.save(step);
        },
      });
      if (taken < steps) throw new EmigmError('aborted', 'stopped; the same command goes on');
      const last = (await readStepLog(log.path)).slice(-Math.ceil(steps / 10));
      return last.reduce((sum, { loss }) => sum + Number(loss), 0) / last.length;
    } finally {
      log.close();
    }
  } finally {
    run?.dispose();
    await data.close();
  }
}
