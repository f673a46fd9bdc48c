/** A thread of `everywhere.ts`. */
import { parentPort, workerData } from "node:worker_threads";
import { type Share, runShare } from "./everywhere.ts";
import { runStory } from "./stories.ts";

const share = workerData as Share;
const result = await runStory(share.story, (story) => runShare(story, share));
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window.
parentPort?.postMessage(result);
