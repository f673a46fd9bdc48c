/**
 * Whether a read-write compute may go on with the data directory that it has, or must have it built anew. Pure: all
 * that counts is gathered before.
 *
 * Under `commit = remote` nothing in the directory was synced and torn pages are not repaired, so only a clean shutdown
 * counts, and only within the boot in which it happened. Under `commit = local` Postgres recovers by itself. In both
 * cases the directory must belong to the end of the branch: either the branch ends exactly where this compute stopped
 * and the pageserver had confirmed that end, or this compute's writer epoch is still the open one, so that nobody else
 * can have written since, and the WAL that the pageserver lacks is in the directory, held by the replication slot.
 */
import type { WriterEpoch } from "../base/ids.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { CleanStop } from "./compute-file.ts";
import type { CommitMode } from "./settings.ts";

export interface DirectoryFacts {
  readonly commit: CommitMode;
  /** What pg_control says; undefined if there is no usable directory. */
  readonly control:
    | { readonly shutDown: boolean; /** End of the last checkpoint record. */ readonly endLsn: Lsn }
    | undefined;
  /** Written to in this boot only. */
  readonly sameBoot: boolean;
  readonly stop: CleanStop | null;
  /** The epoch that this compute has opened and not closed. */
  readonly epoch: WriterEpoch | null;
  /** The epoch that was open at the pageserver before this start. */
  readonly openEpoch: WriterEpoch | null;
  /** Where the branch ends. */
  readonly branchEnd: Lsn;
}

export type StartDecision =
  /** Start Postgres on the directory as it is. */
  | { readonly kind: "keep" }
  /** Throw it away and take a base backup; it holds nothing that was promised to anybody. */
  | { readonly kind: "rebuild"; readonly reason: string }
  /** It may hold commits that the branch does not have and can no longer take. The user must decide. */
  | { readonly kind: "conflict"; readonly reason: string };

export function decideStart(facts: DirectoryFacts): StartDecision {
  const { control, stop, branchEnd } = facts;
  if (!control) return { kind: "rebuild", reason: "there is no data directory" };
  const clean = control.shutDown && (facts.sameBoot || facts.commit === "local");
  if (facts.commit === "remote" && !clean) {
    const reason = control.shutDown ? "the machine was started anew" : "it did not stop cleanly";
    return { kind: "rebuild", reason };
  }
  const ours = facts.epoch !== null && facts.epoch === facts.openEpoch;
  // Beyond the end of the directory the branch can only have what others wrote.
  if (ours && (!clean || branchEnd <= control.endLsn)) return { kind: "keep" };
  const confirmed = clean && stop !== null && stop.ingested && stop.lsn === control.endLsn;
  if (confirmed && branchEnd === stop.lsn) return { kind: "keep" };
  const reason = `the branch has gone on to ${formatLsn(branchEnd)} without it`;
  return facts.commit === "remote" || confirmed ? { kind: "rebuild", reason } : { kind: "conflict", reason };
}
