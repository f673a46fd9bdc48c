/** A thread of `threads.ts`. */
import { parentPort, workerData } from "node:worker_threads";
import { runTask } from "./tasks.ts";
import type { Share } from "./threads.ts";

const result = await runTask(workerData as Share);
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window.
parentPort?.postMessage(result);
