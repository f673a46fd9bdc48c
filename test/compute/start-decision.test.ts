import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseWriterEpoch } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { type DirectoryFacts, type StartDecision, decideStart } from "../../src/compute/start-decision.ts";

const OURS = parseWriterEpoch("1".repeat(32));
const THEIRS = parseWriterEpoch("2".repeat(32));
const END = toLsn(1000);

/** A compute that stopped cleanly at END a moment ago; everybody agrees. */
const stopped: DirectoryFacts = {
  commit: "remote",
  control: { shutDown: true, endLsn: END },
  sameBoot: true,
  stop: { lsn: END, ingested: true },
  epoch: null,
  openEpoch: null,
  branchEnd: END,
};
/** One that was killed. */
const killed: DirectoryFacts = {
  ...stopped,
  control: { shutDown: false, endLsn: toLsn(500) },
  stop: null,
  epoch: OURS,
  openEpoch: OURS,
  branchEnd: toLsn(900),
};
const before = toLsn(900);
const beyond = toLsn(1100);

const cases: readonly (readonly [string, DirectoryFacts, StartDecision["kind"]])[] = [
  ["clean, confirmed, unchanged", stopped, "keep"],
  ["no directory", { ...stopped, control: undefined }, "rebuild"],
  ["no local directory", { ...stopped, control: undefined, commit: "local" }, "rebuild"],
  ["another boot", { ...stopped, sameBoot: false }, "rebuild"],
  ["another boot, but everything was synced", { ...stopped, sameBoot: false, commit: "local" }, "keep"],
  ["others wrote since", { ...stopped, branchEnd: beyond }, "rebuild"],
  ["others wrote since, nothing is lost", { ...stopped, branchEnd: beyond, commit: "local" }, "rebuild"],
  // The pageserver was away during the stop: its epoch is still open, and the rest of the WAL is in the directory.
  [
    "not confirmed, nobody else since",
    { ...stopped, stop: { lsn: END, ingested: false }, epoch: OURS, openEpoch: OURS, branchEnd: before },
    "keep",
  ],
  [
    "not confirmed, closed by somebody",
    { ...stopped, stop: { lsn: END, ingested: false }, epoch: OURS, branchEnd: before },
    "rebuild",
  ],
  // Equal ends prove nothing where the end was never confirmed: others may have come to the same length.
  [
    "not confirmed, another writer, same end",
    { ...stopped, stop: { lsn: END, ingested: false }, epoch: OURS, openEpoch: THEIRS },
    "rebuild",
  ],
  ["stopped by other means, epoch open", { ...stopped, stop: null, epoch: OURS, openEpoch: OURS }, "keep"],
  [
    "our epoch, yet the branch is ahead",
    { ...stopped, epoch: OURS, openEpoch: OURS, branchEnd: beyond },
    "rebuild",
  ],
  ["killed", killed, "rebuild"],
  ["killed, recovers", { ...killed, commit: "local" }, "keep"],
  ["killed, another boot, recovers", { ...killed, commit: "local", sameBoot: false }, "keep"],
  ["killed, others wrote since", { ...killed, commit: "local", openEpoch: THEIRS }, "conflict"],
  ["killed, epoch closed", { ...killed, commit: "local", openEpoch: null }, "conflict"],
  [
    "an old confirmed stop does not vouch for a later crash",
    { ...killed, commit: "local", openEpoch: null, stop: { lsn: END, ingested: true }, branchEnd: END },
    "conflict",
  ],
];

describe("start decision", () => {
  for (const [name, facts, expected] of cases) {
    it(`${name}: ${expected}`, () => {
      assert.equal(decideStart(facts).kind, expected);
    });
  }
});
