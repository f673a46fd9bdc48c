/** What a check of a tenant's files has found, as the pageserver reports it. */
import type { TimelineId } from "../base/ids.ts";
import {
  type JsonObject,
  arrayField,
  asObject,
  numberField,
  optionalNumberField,
  optionalTextField,
  textField,
  timelineIdField,
} from "./json.ts";

/** `clean`, `garbage` (leftovers that can be removed), `not_checked` or `corrupt`. */
export type FsckState = string;

export interface FsckFinding {
  /** One of the states, never `clean`. */
  readonly kind: FsckState;
  readonly what: string;
  readonly file: string;
  /** In bytes; null where there is no one place. */
  readonly offset: number | null;
}

export interface FsckPart {
  readonly state: FsckState;
  readonly details: readonly FsckFinding[];
  /** Findings beyond those in `details`. */
  readonly omitted: number;
}

export interface FsckTimeline extends FsckPart {
  readonly timelineId: TimelineId;
  readonly branches: readonly string[];
}

export interface FsckReport {
  readonly state: FsckState;
  readonly timelines: readonly FsckTimeline[];
  /** tenant.json, refs, and what belongs to no timeline. */
  readonly tenant: FsckPart;
}

export function fsckReportOf(answer: JsonObject): FsckReport {
  return {
    state: textField(answer, "state"),
    timelines: arrayField(answer, "timelines").map((item) => {
      const timeline = asObject(item, "timelines[]");
      return {
        timelineId: timelineIdField(timeline, "timeline_id"),
        branches: arrayField(timeline, "branches").map(String),
        ...partOf(timeline),
      };
    }),
    tenant: partOf(asObject(answer["tenant"], "tenant")),
  };
}

function partOf(object: JsonObject): FsckPart {
  return {
    state: textField(object, "state"),
    details: findingsOf(object, "details"),
    omitted: numberField(object, "omitted"),
  };
}

function findingsOf(object: JsonObject, name: string): FsckFinding[] {
  return arrayField(object, name).map((item) => {
    const finding = asObject(item, `${name}[]`);
    return {
      kind: textField(finding, "kind"),
      what: textField(finding, "what"),
      file: textField(finding, "file"),
      offset: optionalNumberField(finding, "offset"),
    };
  });
}

/** One thing that a repair does, or did. */
export interface RepairStep {
  /** Of what was found: `garbage` or `corrupt`. */
  readonly kind: FsckState;
  readonly what: string;
  readonly file: string;
  /** Why it failed. */
  readonly error: string | null;
}

export interface RepairReport {
  /** False for a mere plan. */
  readonly applied: boolean;
  readonly steps: readonly RepairStep[];
  /** What was found and nothing is done about; `what` says why. */
  readonly left: readonly FsckFinding[];
}

export function repairReportOf(answer: JsonObject): RepairReport {
  return {
    applied: answer["applied"] === true,
    steps: arrayField(answer, "steps").map((item) => {
      const step = asObject(item, "steps[]");
      return {
        kind: textField(step, "kind"),
        what: textField(step, "what"),
        file: textField(step, "file"),
        error: optionalTextField(step, "error"),
      };
    }),
    left: findingsOf(answer, "left"),
  };
}
