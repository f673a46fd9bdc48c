/**
 * A thread that runs a piece of compaction and says how much memory of its own was live at most: heap and buffers, after
 * garbage was collected. Values are whole: the image of a key is its newest value.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parentPort } from "node:worker_threads";
import type { FileHandle } from "../../src/base/seams.ts";
import {
  type CompactionRequest,
  type WrittenOutput,
  runCompaction,
} from "../../src/storage/compaction-job.ts";
import { RealFiles } from "../../src/storage/real-files.ts";

export interface MeasuredAnswer {
  readonly outputs: WrittenOutput[];
  readonly peakBytes: number;
  readonly samples: number;
}

/** Bytes written between two looks at the memory. */
const SAMPLE_BYTES = 8 * 2 ** 20;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

function liveBytes(): number {
  collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Looks at the memory where files are written, in the middle of the work. */
class WatchedFiles extends RealFiles {
  peakBytes = 0;
  samples = 0;
  private unseenBytes = SAMPLE_BYTES;

  override async open(path: string, mode: "r" | "w" | "r+"): Promise<FileHandle> {
    const handle = await super.open(path, mode);
    return {
      read: (...args) => handle.read(...args),
      write: async (bytes, position) => {
        this.look(bytes.length);
        await handle.write(bytes, position);
      },
      sync: () => handle.sync(),
      size: () => handle.size(),
      truncate: (sizeBytes) => handle.truncate(sizeBytes),
      close: () => handle.close(),
    };
  }

  private look(writtenBytes: number): void {
    this.unseenBytes += writtenBytes;
    if (this.unseenBytes < SAMPLE_BYTES) return;
    this.unseenBytes = 0;
    this.peakBytes = Math.max(this.peakBytes, liveBytes());
    this.samples++;
  }
}

parentPort?.on("message", (request: CompactionRequest) => {
  void run(request).then((answer) => parentPort?.postMessage(answer));
});

async function run(request: CompactionRequest): Promise<MeasuredAnswer> {
  const files = new WatchedFiles();
  const before = liveBytes();
  const outputs = await runCompaction(request, {
    files,
    prepareImages: (scan) =>
      Promise.resolve({
        async *imagesOf(range) {
          for await (const batch of scan(range)) {
            yield batch.map(({ key, values }) => ({ key, bytes: values[0]?.bytes ?? new Uint8Array(0) }));
          }
        },
        liveBytes: () => undefined,
      }),
  });
  return { outputs, peakBytes: Math.max(0, files.peakBytes - before), samples: files.samples };
}
