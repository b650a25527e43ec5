"use strict";
// A small GIF89a encoder: one palette for all frames, LZW, and of each frame only what changed.
const Gif = (() => {
  const bin = (r, g, b) => ((r >> 3) << 10) | ((g >> 3) << 5) | (b >> 3);

  // The 256 most frequent colours, at 5 bits a channel; text on flat ground has few.
  const paletteOf = (pictures) => {
    const bins = new Map();
    for (const { data } of pictures) {
      for (let i = 0; i < data.length; i += 4) {
        const key = bin(data[i], data[i + 1], data[i + 2]);
        const sum = bins.get(key);
        if (sum === undefined) bins.set(key, [1, data[i], data[i + 1], data[i + 2]]);
        else { sum[0] += 1; sum[1] += data[i]; sum[2] += data[i + 1]; sum[3] += data[i + 2]; }
      }
    }
    const frequent = [...bins.values()].sort((a, b) => b[0] - a[0]).slice(0, 256);
    return frequent.map(([n, r, g, b]) => [r / n, g / n, b / n].map(Math.round));
  };

  const indexer = (palette) => {
    const known = new Int16Array(1 << 15).fill(-1);
    const nearest = (r, g, b) => {
      let best = 0, least = Infinity;
      palette.forEach((colour, i) => {
        const distance = (colour[0] - r) ** 2 + (colour[1] - g) ** 2 + (colour[2] - b) ** 2;
        if (distance < least) { least = distance; best = i; }
      });
      return best;
    };
    return ({ data }) => {
      const indices = new Uint8Array(data.length / 4);
      for (let i = 0; i < indices.length; i += 1) {
        const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
        const key = bin(r, g, b);
        if (known[key] < 0) known[key] = nearest(r, g, b);
        indices[i] = known[key];
      }
      return indices;
    };
  };

  // The smallest rectangle outside which two frames are equal; one pixel where they are the same.
  const changedBox = (before, after, width, height) => {
    if (before === null) return { left: 0, top: 0, width, height };
    let [left, top, right, bottom] = [width, height, -1, -1];
    for (let i = 0; i < after.length; i += 1) {
      if (before[i] === after[i]) continue;
      const x = i % width, y = (i - x) / width;
      left = Math.min(left, x); right = Math.max(right, x);
      top = Math.min(top, y); bottom = y;
    }
    if (right < 0) return { left: 0, top: 0, width: 1, height: 1 };
    return { left, top, width: right - left + 1, height: bottom - top + 1 };
  };

  const CLEAR = 256, END = 257, LIMIT = 4096;
  const compress = (pixels) => {
    const bytes = [], table = new Map();
    let held = 0, bits = 0, size = 9, next = END + 1;
    const put = (code) => {
      held |= code << bits;
      for (bits += size; bits >= 8; bits -= 8) { bytes.push(held & 255); held >>>= 8; }
    };
    put(CLEAR);
    let prefix = pixels[0];
    for (let i = 1; i < pixels.length; i += 1) {
      const key = (prefix << 8) | pixels[i];
      const code = table.get(key);
      if (code !== undefined) { prefix = code; continue; }
      put(prefix);
      if (next === LIMIT) {
        put(CLEAR);
        table.clear();
        [next, size] = [END + 1, 9];
      } else {
        if (next >= 1 << size) size += 1;
        table.set(key, next);
        next += 1;
      }
      prefix = pixels[i];
    }
    put(prefix);
    if (next >= 1 << size && next < LIMIT) size += 1; // the reader's table grew by the code just read
    put(END);
    if (bits > 0) bytes.push(held & 255);
    return bytes;
  };

  const word = (value) => [value & 255, value >> 8];

  const frameBytes = (pixels, stride, box, centiseconds) => {
    const part = new Uint8Array(box.width * box.height);
    for (let y = 0; y < box.height; y += 1) {
      const from = (box.top + y) * stride + box.left;
      part.set(pixels.subarray(from, from + box.width), y * box.width);
    }
    const bytes = [0x21, 0xf9, 4, 4, ...word(centiseconds), 0, 0, // drawn over the frame before
      0x2c, ...[box.left, box.top, box.width, box.height].flatMap(word), 0, 8];
    const data = compress(part);
    for (let i = 0; i < data.length; i += 255) {
      const block = data.slice(i, i + 255);
      bytes.push(block.length, ...block);
    }
    bytes.push(0);
    return new Uint8Array(bytes);
  };

  // `picture(i)` gives frame i as ImageData; `delay(i)` its centiseconds; resolves to a Blob.
  const encode = async (count, picture, delay, onFrame) => {
    const middle = Math.floor(count / 2);
    const palette = paletteOf([...new Set([0, middle, count - 1])].map(picture));
    const index = indexer(palette);
    const colours = new Uint8Array(768);
    palette.forEach((colour, i) => colours.set(colour, 3 * i));
    const parts = [];
    let before = null;
    for (let i = 0; i < count; i += 1) {
      const image = picture(i);
      if (i === 0) {
        const screen = [...word(image.width), ...word(image.height), 0xf7, 0, 0];
        parts.push("GIF89a", new Uint8Array(screen), colours,
          new Uint8Array([0x21, 0xff, 11]), "NETSCAPE2.0", new Uint8Array([3, 1, 0, 0, 0]));
      }
      const after = index(image);
      const box = changedBox(before, after, image.width, image.height);
      parts.push(frameBytes(after, image.width, box, delay(i)));
      before = after;
      onFrame(i + 1);
      await new Promise((resume) => { setTimeout(resume); }); // the page stays alive
    }
    parts.push(new Uint8Array([0x3b]));
    return new Blob(parts, { type: "image/gif" });
  };

  return { encode };
})();
