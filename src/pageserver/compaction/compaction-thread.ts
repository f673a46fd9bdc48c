/**
 * Runs pieces of compaction in a thread of its own, one after the other. The thread is started when there is work and
 * ended when there has been none for a while. Ending it at any moment leaves only files that nothing names.
 */
import { Worker } from "node:worker_threads";
import { type ErrorCode, ErrorCode as Codes, type ErrorData, NeonError } from "../../base/errors.ts";
import type { Files } from "../../base/seams.ts";
import type { CompactionRequest, WrittenOutput } from "../../storage/compaction-job.ts";
import { SerialQueue } from "../timeline/serial-queue.ts";

export interface ThreadRequest {
  readonly id: number;
  readonly pgMajor: number;
  readonly request: CompactionRequest;
}

export type ThreadAnswer =
  | { readonly id: number; readonly outputs: readonly WrittenOutput[] }
  | {
      readonly id: number;
      readonly error: {
        readonly message: string;
        readonly code?: ErrorCode;
        readonly data?: ErrorData;
      };
    };

/** What runs a piece of compaction for a cluster of some major version. */
export interface CompactionRunner {
  run(request: CompactionRequest, pgMajor: number, signal: AbortSignal): Promise<WrittenOutput[]>;
}

/** How long an idle thread is kept, in milliseconds. */
const IDLE_MS = 20_000;
/** Most memory of the thread's JavaScript heap, in MiB; buffers come on top, and are bounded by themselves. */
const HEAP_MIB_MAX = 512;

export class CompactionThread implements CompactionRunner, AsyncDisposable {
  private readonly files: Files;
  private readonly queue = new SerialQueue();
  private worker: Worker | undefined;
  private idle: NodeJS.Timeout | undefined;
  private lastId = 0;
  private readonly stopping = new AbortController();

  constructor(files: Files) {
    this.files = files;
  }

  async run(request: CompactionRequest, pgMajor: number, signal: AbortSignal): Promise<WrittenOutput[]> {
    return this.queue.run(async () => {
      const ended = AbortSignal.any([signal, this.stopping.signal]);
      ended.throwIfAborted();
      clearTimeout(this.idle);
      try {
        return await this.ask({ id: ++this.lastId, pgMajor, request }, ended);
      } catch (error) {
        await this.removeOutputs(request);
        throw error;
      } finally {
        this.idle = setTimeout(() => void this.endThread(), IDLE_MS);
        this.idle.unref();
      }
    });
  }

  /** Ends the thread, whatever it is doing. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stopping.abort(new NeonError(Codes.Unreachable, "the pageserver is shutting down"));
    clearTimeout(this.idle);
    await this.queue.run(() => this.endThread());
    clearTimeout(this.idle);
  }

  private async ask(request: ThreadRequest, signal: AbortSignal): Promise<WrittenOutput[]> {
    const worker = (this.worker ??= this.startThread());
    const settled = Promise.withResolvers<WrittenOutput[]>();
    const onMessage = (answer: ThreadAnswer): void => {
      if (answer.id !== request.id) return;
      if ("outputs" in answer) settled.resolve([...answer.outputs]);
      else settled.reject(asError(answer.error));
    };
    const onError = (error: unknown): void => settled.reject(error);
    const onExit = (): void =>
      settled.reject(new NeonError(Codes.Failed, "the thread for compaction has ended"));
    const onAbort = (): void => settled.reject(signal.reason);
    worker.on("message", onMessage).on("error", onError).on("exit", onExit);
    signal.addEventListener("abort", onAbort);
    try {
      worker.postMessage(request);
      return await settled.promise;
    } catch (error) {
      // Whether it still writes is unknown until it has ended.
      if (signal.aborted || this.worker !== worker) await this.endThread();
      throw error;
    } finally {
      worker.off("message", onMessage).off("error", onError).off("exit", onExit);
      signal.removeEventListener("abort", onAbort);
    }
  }

  private startThread(): Worker {
    const extension = import.meta.filename.endsWith(".ts") ? "ts" : "js";
    const worker = new Worker(new URL(`./compaction-worker.${extension}`, import.meta.url), {
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB_MAX },
    });
    // Without a listener an error of the thread would end the process.
    worker.on("error", () => undefined);
    worker.on("exit", () => {
      if (this.worker === worker) this.worker = undefined;
    });
    worker.unref();
    return worker;
  }

  private async endThread(): Promise<void> {
    const { worker } = this;
    this.worker = undefined;
    await worker?.terminate();
  }

  /** What a failed piece has left; the next start would remove it, too. */
  private async removeOutputs({ output }: CompactionRequest): Promise<void> {
    const names = await this.files.list(output.directory).catch(() => []);
    for (const name of names) {
      if (!name.startsWith(`${output.prefix}-`)) continue;
      await this.files.remove(`${output.directory}/${name}`).catch(() => undefined);
    }
  }
}

function asError(error: Extract<ThreadAnswer, { error: object }>["error"]): Error {
  if (error.code === undefined) return new Error(error.message);
  return new NeonError(error.code, error.message, { data: error.data ?? {} });
}
