// The forward pass of the page's networks, from the weights in the page, and how a picture becomes an image.
// Arrays of an image or of a layer's output are flat, [row, column, channel]; sums are kept in double precision.
const Net = (() => {
  "use strict";

  const ACTIVATIONS = {
    none: (v) => v,
    relu: (v) => (v > 0 ? v : 0),
    tanh: Math.tanh,
    sigmoid: (v) => 1 / (1 + Math.exp(-v)),
  };

  // Base64 -> bytes.
  function bytes(text) {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  }

  // Base64 of little-endian IEEE half-precision numbers -> Float32Array.
  function halves(text) {
    const b = bytes(text);
    const out = new Float32Array(b.length / 2);
    for (let i = 0; i < out.length; i++) {
      const h = b[2 * i] | (b[2 * i + 1] << 8);
      const exponent = (h >> 10) & 31;
      const fraction = h & 1023;
      const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
      out[i] = h & 0x8000 ? -size : size;
    }
    return out;
  }

  // A layer's kinds: (layer, x, shape of x, take) -> its output; `take(n)` gives the layer's next n weights.
  const LAYERS = {
    pad({ size, shape }, x, [h, w, c]) {
      const out = new Float32Array(shape[0] * shape[1] * c);
      for (let y = 0; y < h; y++) {
        out.set(x.subarray(y * w * c, (y + 1) * w * c), ((y + size) * shape[1] + size) * c);
      }
      return out;
    },

    conv({ size, stride, before, activation, shape }, x, [h, w, c], take) {
      const [rows, columns, features] = shape;
      const kernel = take(size * size * c * features);
      const bias = take(features);
      const act = ACTIVATIONS[activation];
      const out = new Float32Array(rows * columns * features);
      const sum = new Float64Array(features);
      for (let y = 0; y < rows; y++) {
        for (let z = 0; z < columns; z++) {
          sum.set(bias);
          for (let a = 0; a < size; a++) {
            const row = y * stride + a - before[0];
            if (row < 0 || row >= h) continue;
            for (let b = 0; b < size; b++) {
              const column = z * stride + b - before[1];
              if (column < 0 || column >= w) continue;
              for (let i = 0; i < c; i++) {
                const value = x[(row * w + column) * c + i];
                if (value === 0) continue; // after relu, and on paper, most are
                const k = ((a * size + b) * c + i) * features;
                for (let o = 0; o < features; o++) sum[o] += value * kernel[k + o];
              }
            }
          }
          const at = (y * columns + z) * features;
          for (let o = 0; o < features; o++) out[at + o] = act(sum[o]);
        }
      }
      return out;
    },

    // Windows outside the image, where `before` says so, hold nothing: the largest is of what is inside.
    maxpool(layer, x, shape) {
      return pool(layer, x, shape, -Infinity, Math.max, 1);
    },

    avgpool(layer, x, shape) {
      return pool(layer, x, shape, 0, (sum, value) => sum + value, 1 / layer.window ** 2);
    },

    dense({ activation, bias, shape }, x, _, take) {
      const features = shape[0];
      const kernel = take(x.length * features);
      const sum = new Float64Array(features);
      for (let i = 0; i < x.length; i++) {
        if (x[i] === 0) continue;
        for (let o = 0; o < features; o++) sum[o] += x[i] * kernel[i * features + o];
      }
      const offset = bias ? take(features) : new Float32Array(features);
      return Float32Array.from(sum, (value, o) => ACTIVATIONS[activation](value + offset[o]));
    },

    batchnorm({ epsilon, shape }, x, _, take) {
      const c = shape[shape.length - 1];
      const [scale, offset, mean, variance] = [take(c), take(c), take(c), take(c)];
      return x.map((value, i) => {
        const k = i % c;
        return ((value - mean[k]) * scale[k]) / Math.sqrt(variance[k] + epsilon) + offset[k];
      });
    },

    // Local response normalisation over the channels c-r..c+r.
    lrn({ radius, bias, alpha, beta, shape }, x) {
      const c = shape[shape.length - 1];
      return x.map((value, i) => {
        const k = i % c;
        let total = 0;
        for (let n = Math.max(0, k - radius); n <= Math.min(c - 1, k + radius); n++) total += x[i - k + n] ** 2;
        return value * (bias + alpha * total) ** -beta;
      });
    },

    // Several paths side by side, joined in their channels.
    parallel({ branches, shape }, x, before, take) {
      const [rows, columns, c] = shape;
      const out = new Float32Array(rows * columns * c);
      let first = 0;
      for (const branch of branches) {
        const part = through(branch, x, before, take);
        const width = part.length / (rows * columns);
        for (let p = 0; p < rows * columns; p++) {
          out.set(part.subarray(p * width, (p + 1) * width), p * c + first);
        }
        first += width;
      }
      return out;
    },
  };

  function pool({ window, stride, before, shape }, x, [h, w, c], empty, join, factor) {
    const [rows, columns] = shape;
    const out = new Float32Array(rows * columns * c);
    for (let y = 0; y < rows; y++) {
      for (let z = 0; z < columns; z++) {
        for (let i = 0; i < c; i++) {
          let value = empty;
          for (let a = 0; a < window; a++) {
            for (let b = 0; b < window; b++) {
              const row = y * stride + a - before[0];
              const column = z * stride + b - before[1];
              if (row < 0 || row >= h || column < 0 || column >= w) continue;
              value = join(value, x[(row * w + column) * c + i]);
            }
          }
          out[(y * columns + z) * c + i] = value * factor;
        }
      }
    }
    return out;
  }

  function through(layers, x, shape, take) {
    for (const layer of layers) {
      x = LAYERS[layer.kind](layer, x, shape, take);
      shape = layer.shape;
    }
    return x;
  }

  // Logits of one seed's network for pixels 0..255, [side * side].
  function logits(net, seed, pixels) {
    let used = 0;
    const take = (n) => net.weights[seed].subarray(used, (used += n));
    const x = Float32Array.from(pixels, (value) => Math.fround(value * net.scale));
    return through(net.layers, x, [net.side, net.side, 1], take);
  }

  function softmax(values) {
    const top = Math.max(...values);
    const powers = Array.from(values, (value) => Math.exp(value - top));
    const total = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / total);
  }

  // How much of each of `count` cells of length `step`, laid from `start` on, every unit of 0..length covers.
  function shares(start, step, count, length) {
    return Array.from({ length: count }, (_, cell) => {
      const [low, high] = [start + cell * step, start + (cell + 1) * step];
      const parts = [];
      for (let unit = Math.max(0, Math.floor(low)); unit < Math.min(length, high); unit++) {
        const share = (Math.min(high, unit + 1) - Math.max(low, unit)) / step;
        if (share > 0) parts.push([unit, share]);
      }
      return parts;
    });
  }

  // A drawing, ink 0..255 [height, width], as the data's images are made: pixels 0..255, [side * side].
  // What is drawn is scaled until its longer side is `box` pixels, each pixel the mean ink of the area under it, then
  // moved by whole pixels until its centre of mass is at pixel side / 2 (at most half a pixel before it, less than half after
  // it: so it is in all of MNIST), or with `byMass` false until its box is in the middle.
  function place(ink, width, height, { side, box, byMass }) {
    let [top, bottom, left, right] = [height, -1, width, -1];
    for (let i = 0; i < ink.length; i++) {
      if (!ink[i]) continue;
      const [y, x] = [Math.floor(i / width), i % width];
      [top, bottom, left, right] = [Math.min(top, y), Math.max(bottom, y), Math.min(left, x), Math.max(right, x)];
    }
    const pixels = new Uint8Array(side * side);
    if (bottom < 0) return pixels;
    const [tall, wide] = [bottom - top + 1, right - left + 1];
    const step = Math.max(tall, wide) / box;
    const sizes = [tall, wide].map((length) => Math.max(1, Math.min(box, Math.round(length / step))));
    // The shorter side rarely is a whole number of pixels: its cells lie about its middle.
    const rows = shares(top + (tall - sizes[0] * step) / 2, step, sizes[0], height);
    const columns = shares(left + (wide - sizes[1] * step) / 2, step, sizes[1], width);
    const small = rows.map((vertical) =>
      columns.map((horizontal) => {
        let sum = 0;
        for (const [y, a] of vertical) for (const [x, b] of horizontal) sum += a * b * ink[y * width + x];
        return sum;
      }),
    );
    let [mass, massY, massX] = [0, 0, 0];
    small.forEach((row, y) => row.forEach((v, x) => ((mass += v), (massY += v * y), (massX += v * x))));
    const shift = (momentum, size) =>
      byMass ? Math.ceil(side / 2 - 0.5 - momentum / mass - 1e-9) : Math.floor((side - size) / 2);
    const [down, along] = [shift(massY, sizes[0]), shift(massX, sizes[1])];
    small.forEach((row, y) =>
      row.forEach((v, x) => {
        const [to, at] = [y + down, x + along];
        if (to >= 0 && to < side && at >= 0 && at < side) pixels[to * side + at] = Math.round(v);
      }),
    );
    return pixels;
  }

  return { bytes, halves, logits, softmax, place };
})();
