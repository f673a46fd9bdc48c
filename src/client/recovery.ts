/** How stock Postgres gets to moments of a branch, as the pageserver reports it. */
import type { Lsn } from "../base/lsn.ts";
import { type JsonObject, arrayField, asObject, lsnField, numberField } from "./json.ts";

/** Recovery from a checkpoint to an LSN, the end of a record. */
export interface RecoveryStep {
  readonly lsn: Lsn;
  readonly checkpointLsn: Lsn;
  /** Where replay begins. */
  readonly redoLsn: Lsn;
}

export interface RecoveryPlan {
  /** By LSN, ascending. */
  readonly steps: readonly RecoveryStep[];
  /** WAL records between the first checkpoint and the last LSN. */
  readonly records: number;
}

export function recoveryPlanOf(answer: JsonObject): RecoveryPlan {
  return {
    steps: arrayField(answer, "steps").map((item) => {
      const step = asObject(item, "steps[]");
      return {
        lsn: lsnField(step, "lsn"),
        checkpointLsn: lsnField(step, "checkpoint_lsn"),
        redoLsn: lsnField(step, "redo_lsn"),
      };
    }),
    records: numberField(answer, "records"),
  };
}
