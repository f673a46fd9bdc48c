/**
 * Where in its range the keys of a layer lie, as a few spans: so that a read need not ask a layer that changed other
 * relations. Made while keys are written in order; the widest gaps between them are kept.
 */
import { corrupt } from "../base/errors.ts";
import { type Key, type KeyPrefix, compareKeys } from "./key.ts";
import { type KeyRange, makeKey, nextKey } from "./key-range.ts";

/** What is kept of a layer. */
export const SPANS_MAX = 16;
/** Blocks between two keys of one prefix that make a gap. */
const GAP_BLOCKS = 32;
/** Spans are joined again when there are this many, down to a quarter. */
const SPANS_WHILE_WRITING = 512;
/** Width of a gap between two prefixes, by the first field in which they differ; blocks are below 2^32. */
const GAP_OF_FORK = 2 ** 33;
const GAP_OF_RELATION = 2 ** 34;
const GAP_OF_DATABASE = 2 ** 35;
const GAP_OF_TABLESPACE = 2 ** 36;
const GAP_OF_KIND = 2 ** 37;

interface Span {
  readonly firstPrefix: KeyPrefix;
  readonly firstBlock: number;
  lastPrefix: KeyPrefix;
  lastBlock: number;
}

export class SpanBuilder {
  private spans: Span[] = [];
  private last: Span | undefined;

  /** Keys come in order. */
  add(prefix: KeyPrefix, block: number): void {
    const { last } = this;
    if (last !== undefined && gapBetween(last.lastPrefix, last.lastBlock, prefix, block) <= GAP_BLOCKS) {
      last.lastPrefix = prefix;
      last.lastBlock = block;
      return;
    }
    if (this.spans.length >= SPANS_WHILE_WRITING)
      this.spans = joinNarrowest(this.spans, SPANS_WHILE_WRITING / 4);
    this.last = { firstPrefix: prefix, firstBlock: block, lastPrefix: prefix, lastBlock: block };
    this.spans.push(this.last);
  }

  /** In key order, at most `SPANS_MAX`; they hold every key that was added. */
  finish(): KeyRange[] {
    return joinNarrowest(this.spans, SPANS_MAX).map((span) => ({
      from: makeKey(span.firstPrefix, span.firstBlock),
      to: nextKey(makeKey(span.lastPrefix, span.lastBlock)),
    }));
  }
}

/** Checks spans that were read: in order, within the range and touching its ends. Throws `corrupt`. */
export function checkSpans(spans: readonly KeyRange[], range: KeyRange): void {
  const [first] = spans;
  const last = spans.at(-1);
  if (first === undefined || last === undefined || spans.length > SPANS_MAX) {
    throw corrupt(`a layer has ${spans.length} spans`);
  }
  if (compareKeys(first.from, range.from) !== 0 || compareKeys(last.to, range.to) !== 0) {
    throw corrupt("the spans of a layer do not reach as far as its keys");
  }
  let before: Key | undefined;
  for (const { from, to } of spans) {
    if (compareKeys(from, to) >= 0 || (before !== undefined && compareKeys(before, from) > 0)) {
      throw corrupt("the spans of a layer are out of order");
    }
    before = to;
  }
}

function gapBetween(a: KeyPrefix, aBlock: number, b: KeyPrefix, bBlock: number): number {
  if (a === b) return bBlock - aBlock;
  if (a.kind !== b.kind) return GAP_OF_KIND;
  if (a.spcOid !== b.spcOid) return GAP_OF_TABLESPACE;
  if (a.dbOid !== b.dbOid) return GAP_OF_DATABASE;
  if (a.relNumber !== b.relNumber) return GAP_OF_RELATION;
  if (a.fork !== b.fork) return GAP_OF_FORK;
  return bBlock - aBlock;
}

/** Joins neighbours until `count` are left; the widest gaps stay. */
function joinNarrowest(spans: readonly Span[], count: number): Span[] {
  if (spans.length <= count) return [...spans];
  const gaps: { at: number; width: number }[] = [];
  for (let at = 1; at < spans.length; at++) {
    const before = spans[at - 1] as Span;
    const after = spans[at] as Span;
    const width = gapBetween(before.lastPrefix, before.lastBlock, after.firstPrefix, after.firstBlock);
    gaps.push({ at, width });
  }
  gaps.sort((a, b) => b.width - a.width);
  const kept = new Set(gaps.slice(0, count - 1).map((gap) => gap.at));
  const joined: Span[] = [];
  for (const [at, span] of spans.entries()) {
    const last = joined.at(-1);
    if (last === undefined || kept.has(at)) {
      joined.push({ ...span });
    } else {
      last.lastPrefix = span.lastPrefix;
      last.lastBlock = span.lastBlock;
    }
  }
  return joined;
}
