/** Checks everything that a tenant has on disk, one timeline after another, and says for each in what state it is. */
import type { TimelineId } from "../../base/ids.ts";
import type { Files } from "../../base/seams.ts";
import { type CheckState, type Finding, worseState } from "../../storage/findings.ts";
import { TimelineCheck, checkBranchPoint } from "./check-timeline.ts";
import type { SurveyedTimeline, TenantSurvey } from "./survey.ts";

export interface CheckReport {
  readonly state: CheckState;
  readonly details: readonly Finding[];
  /** Findings beyond those in `details`. */
  readonly omitted: number;
}

export interface TimelineReport extends CheckReport {
  readonly timelineId: TimelineId;
  readonly branches: readonly string[];
}

export interface TenantReport {
  /** The worst of all. */
  readonly state: CheckState;
  readonly timelines: readonly TimelineReport[];
  /** tenant.json, refs, and what belongs to no timeline. */
  readonly tenant: CheckReport;
}

export interface TenantCheckOptions {
  readonly signal: AbortSignal;
  /** Bytes read so far, and about how many there will be. */
  readonly progress: (doneBytes: number, totalBytes: number) => void;
  /** Whether a timeline still exists: one may be deleted while it is being read. */
  readonly isAlive: (id: TimelineId) => boolean;
}

export async function checkTenant(
  survey: TenantSurvey,
  files: Files,
  options: TenantCheckOptions,
): Promise<TenantReport> {
  const checks = new Map<TimelineId, TimelineCheck>();
  for (const timeline of survey.timelines) {
    checks.set(timeline.id, await TimelineCheck.prepare(timeline, survey.cluster, files));
  }
  let totalBytes = 0;
  for (const check of checks.values()) totalBytes += check.sizeBytes;
  let doneBytes = 0;
  const progress = (sizeBytes: number): void => {
    doneBytes += sizeBytes;
    options.progress(doneBytes, Math.max(doneBytes, totalBytes));
  };
  const timelines: TimelineReport[] = [];
  for (const [id, check] of checks) {
    const { timeline } = check;
    const ancestor = timeline.metadata?.ancestor;
    checkBranchPoint(check, ancestor && checks.get(ancestor.timelineId));
    await check.run({ signal: options.signal, progress });
    check.explainBroken();
    if (timeline.open && !options.isAlive(id)) continue;
    timelines.push(reportOf(timeline));
  }
  const { state, list, omitted } = survey.findings;
  const tenant = { state, details: list, omitted };
  return {
    state: timelines.reduce((worst, t) => worseState(worst, t.state), tenant.state),
    timelines,
    tenant,
  };
}

function reportOf(timeline: SurveyedTimeline): TimelineReport {
  const { id: timelineId, branches, findings, isLeftover, directory } = timeline;
  if (isLeftover) {
    const what = "no branch and no timeline names it";
    return {
      timelineId,
      branches,
      state: "garbage",
      details: [{ kind: "garbage", what, file: directory }],
      omitted: 0,
    };
  }
  return { timelineId, branches, state: findings.state, details: findings.list, omitted: findings.omitted };
}
