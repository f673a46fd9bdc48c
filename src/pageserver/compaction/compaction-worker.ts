/** The thread in which layers are merged and images made. It gets immutable files and writes new ones. */
import { constants, setPriority } from "node:os";
import { parentPort } from "node:worker_threads";
import { NeonError, messageOf } from "../../base/errors.ts";
import { versionByMajor } from "../../postgres/versions/versions.ts";
import { runCompaction } from "../../storage/compaction-job.ts";
import { RealFiles } from "../../storage/real-files.ts";
import type { ThreadAnswer, ThreadRequest } from "./compaction-thread.ts";
import { prepareImages } from "./prepare-images.ts";

// A failed sync makes the new file worthless and nothing else: the files that it was made of are still there.
const files = new RealFiles({
  onFatal: (error): never => {
    throw error;
  },
});

// Whoever takes in WAL or reads goes first where processors are few. Elsewhere the call is about the whole process.
if (process.platform === "linux") setPriority(0, constants.priority.PRIORITY_BELOW_NORMAL);

parentPort?.on("message", (request: ThreadRequest) => {
  void answer(request).then((message) => parentPort?.postMessage(message));
});

async function answer({ id, pgMajor, request }: ThreadRequest): Promise<ThreadAnswer> {
  try {
    const version = versionByMajor(pgMajor);
    const outputs = await runCompaction(request, {
      files,
      prepareImages: (scan) => prepareImages(scan, version),
    });
    return { id, outputs };
  } catch (error) {
    const known = error instanceof NeonError ? { code: error.code, data: error.data } : {};
    return { id, error: { message: messageOf(error), ...known } };
  }
}
