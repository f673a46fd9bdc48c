/** Compaction in the thread of its caller, through the caller's files: for tests with faulty ones. */
import type { Files } from "../../base/seams.ts";
import { versionByMajor } from "../../postgres/versions/versions.ts";
import { type CompactionRequest, type WrittenOutput, runCompaction } from "../../storage/compaction-job.ts";
import type { CompactionRunner } from "./compaction-thread.ts";
import { prepareImages } from "./prepare-images.ts";

export class InlineRunner implements CompactionRunner {
  private readonly files: Files;

  constructor(files: Files) {
    this.files = files;
  }

  run(request: CompactionRequest, pgMajor: number, signal: AbortSignal): Promise<WrittenOutput[]> {
    signal.throwIfAborted();
    const version = versionByMajor(pgMajor);
    return runCompaction(request, {
      files: this.files,
      prepareImages: (scan) => prepareImages(scan, version),
    });
  }
}
