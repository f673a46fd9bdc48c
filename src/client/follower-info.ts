/** Who receives a branch's WAL, as the pageserver tells it. */
import { type Lsn, parseLsn } from "../base/lsn.ts";
import {
  type JsonObject,
  arrayField,
  asObject,
  lsnField,
  numberField,
  optionalTextField,
  textField,
} from "./json.ts";

export interface FollowerInfo {
  /** What the client calls itself. */
  readonly applicationName: string;
  readonly user: string;
  readonly slot: string | null;
  /** `catchup` or `streaming`. */
  readonly state: string;
  readonly sentLsn: Lsn;
  /** What it says that it has on its disk; null until it has said so. */
  readonly flushLsn: Lsn | null;
  readonly lagBytes: number;
}

/** Nobody where the pageserver does not tell. */
export function followersOf(branch: JsonObject): FollowerInfo[] {
  if (branch["followers"] === undefined) return [];
  return arrayField(branch, "followers").map((item) => {
    const object = asObject(item, "followers[]");
    return {
      applicationName: textField(object, "application_name"),
      user: textField(object, "user"),
      slot: optionalTextField(object, "slot"),
      state: textField(object, "state"),
      sentLsn: lsnField(object, "sent_lsn"),
      flushLsn: parseLsn(optionalTextField(object, "flush_lsn") ?? "") ?? null,
      lagBytes: numberField(object, "lag_bytes"),
    };
  });
}
