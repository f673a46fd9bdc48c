/** What the two sides of a transfer accept from each other, so that a hostile one can neither fill memory nor disk. */

/** Layer files are sent in pieces of this many bytes, the last one shorter; also the unit of what is sent again. */
export const CHUNK_SIZE = 1024 * 1024;
/** Chunks that may be under way without having been confirmed. */
export const WINDOW_CHUNKS = 8;
/** Longest frame, in bytes. A compressed chunk is never longer than the chunk. */
export const FRAME_SIZE_MAX = CHUNK_SIZE + 64;
/** Longest JSON message in bytes, as it is sent and when it is decompressed. */
export const MESSAGE_SIZE_MAX = 16 * 1024 * 1024;
export const MESSAGE_TEXT_MAX = 128 * 1024 * 1024;

export const TIMELINES_MAX = 100_000;
export const STEPS_MAX = 1000;
export const LAYERS_MAX = 500_000;
export const HISTORY_MAX = 100_000;
/** Bytes of layer files in one transfer: far above what one machine holds. */
export const TRANSFER_BYTES_MAX = 2 ** 46;
