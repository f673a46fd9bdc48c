/** What threads can be told to do, by name. */
import { compactionStory } from "./compaction-story.ts";
import { type Story, faultEverywhere } from "./everywhere.ts";
import { flipBits } from "./flips.ts";
import { runModel } from "./model-run.ts";
import { storeStory } from "./store-story.ts";
import { tenantStory } from "./tenant-story.ts";
import type { Share, ShareResult } from "./threads.ts";
import { directWalStory, walStory } from "./wal-story.ts";

const story =
  <S>(told: Story<S>) =>
  (share: Share): Promise<ShareResult> =>
    faultEverywhere(told, share);

const TASKS: Readonly<Record<string, (share: Share) => Promise<ShareResult>>> = {
  compaction: story(compactionStory),
  store: story(storeStory),
  tenant: story(tenantStory),
  wal: story(walStory),
  "wal on the spot": story(directWalStory),
  flips: flipBits,
  model: runModel,
};

export function runTask(share: Share): Promise<ShareResult> {
  const task = TASKS[share.task];
  if (task === undefined) throw new Error(`there is no task "${share.task}"`);
  return task(share);
}
