/** The flag --wal-segsize: how large the WAL segments of a new cluster are. */
import { custom } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";

const WAL_SEGMENT_MB_MAX = 1024;

export const walSegmentFlag = custom<number>({
  parse: async (input) => {
    const size = /^[0-9]{1,4}$/.test(input) ? Number(input) : 0;
    if (size >= 1 && size <= WAL_SEGMENT_MB_MAX && Number.isInteger(Math.log2(size))) return size;
    throw new NeonError(ErrorCode.Usage, `${JSON.stringify(input)} is no size of a WAL segment`, {
      hint: "Give a power of two from 1 to 1024, in megabytes; 16 is usual.",
    });
  },
});
