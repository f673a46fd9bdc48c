/**
 * Where the WAL of a branch comes from: the flattened list of who wrote it, through all ancestors of its timeline. Epochs
 * are random and never used twice, so two copies that name the same epoch for an LSN hold the same WAL up to there. That
 * alone decides whether one copy can be brought up to another; ids of timelines and bare LSNs say nothing.
 */
import { assert } from "./errors.ts";
import type { Lsn } from "./lsn.ts";

/** From `startLsn` on, until the next entry, the WAL was written under `epoch`. */
export interface LineageEntry {
  readonly startLsn: Lsn;
  /** Of the first entry of all: the id of the root timeline, for what was imported. */
  readonly epoch: string;
}

export interface Lineage {
  /** Ascending; each entry but the first covers at least one byte. */
  readonly entries: readonly LineageEntry[];
  readonly endLsn: Lsn;
}

/** One timeline's share of a lineage: what lies between its start and where the next one branches off. */
export interface LineageSection {
  /** Id of the timeline; that of the root stands for what it was imported from. */
  readonly timelineId: string;
  readonly startLsn: Lsn;
  /** Where the next section begins, or the end of the branch. */
  readonly endLsn: Lsn;
  /** As the timeline has it: may begin with, or hold, entries under which nothing was written. */
  readonly history: readonly LineageEntry[];
}

/** How ours stands to theirs: `ahead` if theirs is a part of ours, `behind` if ours is a part of theirs. */
export type Relation = "equal" | "ahead" | "behind" | "diverged" | "unrelated";

export interface Comparison {
  readonly relation: Relation;
  /** Up to here both are the same; undefined if they are unrelated. */
  readonly commonLsn: Lsn | undefined;
}

/** Sections from the root on. */
export function flattenLineage(sections: readonly LineageSection[]): Lineage {
  const root = sections[0];
  const last = sections.at(-1);
  assert(root !== undefined && last !== undefined, "a lineage has a root");
  const entries: LineageEntry[] = [{ startLsn: root.startLsn, epoch: root.timelineId }];
  for (const section of sections) {
    for (const { startLsn, epoch } of section.history) {
      // Behind the end, or where the next writer began at once, nothing was written under the epoch.
      if (startLsn >= section.endLsn) continue;
      const before = entries.at(-1);
      if (entries.length > 1 && before?.startLsn === startLsn) entries.pop();
      entries.push({ startLsn, epoch });
    }
  }
  return { entries, endLsn: last.endLsn };
}

/** The part of a lineage up to an LSN, which must not lie below its beginning. */
export function cutLineage(lineage: Lineage, endLsn: Lsn): Lineage {
  const entries = lineage.entries.filter((entry, index) => index === 0 || entry.startLsn < endLsn);
  return { entries, endLsn: endLsn < lineage.endLsn ? endLsn : lineage.endLsn };
}

export function compareLineages(ours: Lineage, theirs: Lineage): Comparison {
  const commonLsn = commonEnd(ours, theirs);
  if (commonLsn === undefined) return { relation: "unrelated", commonLsn };
  const atOurEnd = commonLsn === ours.endLsn;
  const atTheirEnd = commonLsn === theirs.endLsn;
  const relation = atOurEnd ? (atTheirEnd ? "equal" : "behind") : atTheirEnd ? "ahead" : "diverged";
  return { relation, commonLsn };
}

function commonEnd(ours: Lineage, theirs: Lineage): Lsn | undefined {
  let common: Lsn | undefined;
  for (const [index, entry] of ours.entries.entries()) {
    const other = theirs.entries[index];
    if (other?.epoch !== entry.epoch || other.startLsn !== entry.startLsn) return common;
    const ourEnd = ours.entries[index + 1]?.startLsn ?? ours.endLsn;
    const theirEnd = theirs.entries[index + 1]?.startLsn ?? theirs.endLsn;
    common = ourEnd < theirEnd ? ourEnd : theirEnd;
    if (ourEnd !== theirEnd) return common;
  }
  return common;
}
