/** All stories by name, for threads that are told a name. */
import type { ShareResult, Story } from "./everywhere.ts";
import { storeStory } from "./store-story.ts";
import { tenantStory } from "./tenant-story.ts";
import { directWalStory, walStory } from "./wal-story.ts";

type Runner = <S>(story: Story<S>) => Promise<ShareResult>;

const STORIES: Readonly<Record<string, (run: Runner) => Promise<ShareResult>>> = {
  store: (run) => run(storeStory),
  tenant: (run) => run(tenantStory),
  wal: (run) => run(walStory),
  "wal on the spot": (run) => run(directWalStory),
};

export function runStory(name: string, run: Runner): Promise<ShareResult> {
  const story = STORIES[name];
  if (story === undefined) throw new Error(`there is no story "${name}"`);
  return story(run);
}
