/** What a comparison of a compute's directory with a base backup has found, as the pageserver reports it. */
import {
  type JsonObject,
  arrayField,
  asObject,
  numberField,
  optionalNumberField,
  textField,
} from "./json.ts";

export interface PageDifference {
  /** Relative to the data directory. */
  readonly file: string;
  /** Block of the relation; null if it is about a whole file, or the file is no relation's. */
  readonly block: number | null;
  /** The first byte that differs, in the page or the file. */
  readonly byte: number | null;
  readonly what: string;
}

export interface Verification {
  /** Pages that were compared. */
  readonly pages: number;
  readonly differences: readonly PageDifference[];
  /** Differences beyond those in the list. */
  readonly omitted: number;
}

export function verificationOf(answer: JsonObject): Verification {
  return {
    pages: numberField(answer, "pages"),
    differences: arrayField(answer, "differences").map((item) => {
      const difference = asObject(item, "differences[]");
      return {
        file: textField(difference, "file"),
        block: optionalNumberField(difference, "block"),
        byte: optionalNumberField(difference, "byte"),
        what: textField(difference, "what"),
      };
    }),
    omitted: numberField(answer, "omitted"),
  };
}
