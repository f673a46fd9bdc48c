/**
 * What a transfer has to do: from both sides' histories to the timelines that are made or made longer. Pure; all that is
 * not allowed is refused here, before a byte of data is sent. Cases: DESIGN, "push and pull".
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { type Comparison, compareLineages, flattenLineage } from "../../base/lineage.ts";
import { type Lsn, formatLsn, lsnMax } from "../../base/lsn.ts";
import {
  type ChainSection,
  type TenantView,
  type TimelineView,
  chainOf,
  highestReadable,
  lineageOf,
  namedTimeline,
} from "./description.ts";
import type { Operation } from "./identity.ts";

/** A part of one of the sender's timelines: what lies above `fromLsn`, up to and including `toLsn`. */
export interface SourceSpan {
  readonly timelineId: TimelineId;
  readonly fromLsn: Lsn;
  readonly toLsn: Lsn;
}

/** One timeline of the receiver's that is made or made longer. */
export interface TransferStep {
  readonly kind: "create" | "extend";
  /** Its id there. */
  readonly timelineId: TimelineId;
  /** Of a timeline that is made. */
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | undefined;
  readonly fromLsn: Lsn;
  readonly toLsn: Lsn;
  /** Of a root that is made: what it was imported as. */
  readonly importId?: TimelineId | undefined;
  /** In LSN order, each beginning where the one before ends. */
  readonly spans: readonly SourceSpan[];
}

export type Decision =
  | { readonly kind: "equal" }
  | {
      readonly kind: "transfer";
      readonly result: "created" | "updated";
      /** Up to here the receiver has everything; undefined if it has nothing of the branch. */
      readonly commonLsn: Lsn | undefined;
      /** Ancestors first; the last one is what the branch names. */
      readonly steps: readonly TransferStep[];
    };

export interface DecisionInput {
  readonly operation: Operation;
  /** The sender's timelines, and the one to be sent. */
  readonly ours: TenantView;
  readonly timelineId: TimelineId;
  /** The branch's name at the receiver. */
  readonly branch: string;
  readonly theirs: TenantView;
  readonly newTimelineId: () => TimelineId;
}

/** Throws `conflict` where the branch there is ahead or has diverged. */
export function decide(input: DecisionInput): Decision {
  const chain = chainOf(input.ours, input.timelineId);
  const named = namedTimeline(input.theirs, input.branch);
  return named === undefined ? decideMissing(input, chain) : decideNamed(input, chain, named);
}

function decideNamed(input: DecisionInput, chain: readonly ChainSection[], named: TimelineView): Decision {
  const comparison = compareLineages(flattenLineage(chain), lineageOf(input.theirs, named.id));
  if (comparison.relation === "equal") return { kind: "equal" };
  if (comparison.relation !== "ahead") throw refusal(input, comparison);
  if (named.hasWriter) throw inUse(input);
  const { endLsn } = named;
  const spans = spansAfter(chain, endLsn).filter((span) => span.toLsn > span.fromLsn);
  const step: TransferStep = {
    kind: "extend",
    timelineId: named.id,
    ancestor: undefined,
    fromLsn: endLsn,
    toLsn: spans.at(-1)?.toLsn ?? endLsn,
    spans,
  };
  return { kind: "transfer", result: "updated", commonLsn: endLsn, steps: [step] };
}

function decideMissing(input: DecisionInput, chain: readonly ChainSection[]): Decision {
  const common = commonPoint(input, chain);
  // A root has its import even where nothing was written; other timelines may be left out unless they get the name.
  const isRoot = (index: number): boolean => common === undefined && index === 0;
  const spans = spansAfter(chain, common?.lsn).filter(
    (span, index, all) => span.toLsn > span.fromLsn || index === all.length - 1 || isRoot(index),
  );
  const taken = new Set(input.theirs.keys());
  const steps: TransferStep[] = [];
  let before = common && { timelineId: common.owner.id, lsn: common.lsn };
  for (const [index, span] of spans.entries()) {
    const isExtension = index === 0 && common !== undefined && canGrow(common, span.timelineId);
    const timelineId = isExtension || !taken.has(span.timelineId) ? span.timelineId : input.newTimelineId();
    taken.add(timelineId);
    steps.push({
      kind: isExtension ? "extend" : "create",
      timelineId,
      ancestor: isExtension ? undefined : before,
      importId: isRoot(index) ? chain[0]?.view.importId : undefined,
      fromLsn: span.fromLsn,
      toLsn: span.toLsn,
      spans: span.toLsn > span.fromLsn || isRoot(index) ? [span] : [],
    });
    before = { timelineId, lsn: span.toLsn };
  }
  return { kind: "transfer", result: "created", commonLsn: common?.lsn, steps };
}

interface CommonPoint {
  readonly lsn: Lsn;
  /** The timeline there that holds it. */
  readonly owner: TimelineView;
}

/**
 * The greatest LSN up to which some timeline there, with or without a name, has the same history, and at which it can be
 * read: on what was garbage collected nothing can stand. Where there is none, all of it is sent, once more if need be.
 */
function commonPoint(input: DecisionInput, chain: readonly ChainSection[]): CommonPoint | undefined {
  const ours = flattenLineage(chain);
  const ids = new Set<TimelineId>(chain.map((section) => section.view.id));
  let best: CommonPoint | undefined;
  for (const { id } of input.theirs.values()) {
    const theirs = chainOf(input.theirs, id);
    const { commonLsn } = compareLineages(ours, flattenLineage(theirs));
    const found = commonLsn === undefined ? undefined : highestReadable(theirs, commonLsn);
    if (found === undefined || (best && found.lsn < best.lsn)) continue;
    const isBetter = !best || found.lsn > best.lsn || (!isGrowing(best, ids) && isGrowing(found, ids));
    if (isBetter) best = found;
  }
  return best;
}

function isGrowing(common: CommonPoint, ids: ReadonlySet<TimelineId>): boolean {
  return ids.has(common.owner.id) && canGrow(common, common.owner.id);
}

/** A timeline without a name is nobody's branch: it may be made longer where it ends. */
function canGrow({ owner, lsn }: CommonPoint, id: TimelineId): boolean {
  return owner.id === id && owner.endLsn === lsn && owner.names.length === 0 && !owner.hasWriter;
}

/** What is missing above `commonLsn`, timeline by timeline; the last timeline is there even if nothing of it is. */
function spansAfter(chain: readonly ChainSection[], commonLsn: Lsn | undefined): SourceSpan[] {
  const spans: SourceSpan[] = [];
  for (const [index, { view, startLsn, endLsn }] of chain.entries()) {
    const fromLsn = commonLsn === undefined ? startLsn : lsnMax(startLsn, commonLsn);
    if (commonLsn === undefined || endLsn > fromLsn || index === chain.length - 1) {
      spans.push({ timelineId: view.id, fromLsn, toLsn: endLsn });
    }
  }
  return spans;
}

function refusal({ operation, branch }: DecisionInput, { relation, commonLsn }: Comparison): NeonError {
  const where = operation === "push" ? "there" : "here";
  if (relation === "behind") {
    return new NeonError(ErrorCode.Conflict, `branch "${branch}" ${where} is ahead`, {
      hint:
        operation === "push"
          ? "It has all of this and more: `neon pull` brings the rest here."
          : "It has all that is there and more: `neon push` sends the rest there.",
      data: { relation: "ahead", lsn: commonLsn === undefined ? null : formatLsn(commonLsn) },
    });
  }
  const at = commonLsn === undefined ? undefined : formatLsn(commonLsn);
  const text = at
    ? `branch "${branch}" has diverged: the histories part at ${at}`
    : `branch "${branch}" ${where} has nothing in common with this one`;
  const example = operation === "push" ? "neon push BRANCH ORIGIN:OTHER" : "neon pull OTHER ORIGIN:BRANCH";
  return new NeonError(ErrorCode.Conflict, text, {
    hint: `Both stay as they are. Use another name for one of them: ${example}`,
    data: { relation: "diverged", lsn: at ?? null },
  });
}

function inUse({ operation, branch }: DecisionInput): NeonError {
  const where = operation === "push" ? "there" : "here";
  return new NeonError(ErrorCode.Conflict, `a compute writes to branch "${branch}" ${where}`, {
    hint: "Stop it first: neon pg stop",
    data: { relation: "in_use" },
  });
}
