// What can be read on a page, and whether one sees where the focus is. Colours are [r, g, b, alpha]; grounds are opaque.
(() => {
  const TEXT = 4.5, SIGN = 3.0; // WCAG 2.2: 1.4.3 for text; 1.4.11 for what is none, as the coloured signs of a legend
  const SHAPES = "rect, path, circle, ellipse, polygon, image";
  const DISABLED = ":disabled, [aria-disabled=true], .wb-unseen, .lm-mod-hidden, title, desc, style, script, option";

  const numbers = (text) => [...(text.match(/[0-9.]+/g) ?? [0, 0, 0, 0]).map(Number), 1].slice(0, 4);
  const over = (ground, [r, g, b, a]) => [r, g, b].map((c, i) => a * c + (1 - a) * ground[i]);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => rgb.reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (one, other) => {
    const [most, least] = [light(one), light(other)].sort((a, b) => b - a);
    return (most + 0.05) / (least + 0.05);
  };
  const memo = (make) => {
    const kept = new Map();
    return (part, ...more) => kept.has(part) ? kept.get(part) : kept.set(part, make(part, ...more)).get(part);
  };

  function looker() {
    const style = memo((part) => getComputedStyle(part));
    const box = memo((part) => part.getBoundingClientRect());
    // [what lies behind the inside of an element, how the transparent groups around it change a colour]
    const behind = memo((part) => {
      if (!(part instanceof Element)) return [[255, 255, 255], (rgb) => rgb];
      let [ground, through] = behind(part.parentElement);
      const look = style(part), share = Number(look.opacity);
      if (share < 1) {
        const [below, outer] = [ground, through];
        through = (rgb) => outer(over(below, [...rgb, share]));
      }
      ground = over(ground, numbers(look.backgroundColor));
      const stripes = look.backgroundImage.includes("gradient") && look.backgroundImage.match(/rgba?\([^)]*\)/);
      return [stripes ? over(ground, numbers(stripes[0])) : ground, through];
    });
    return { style, box, behind };
  }

  // of each text in sight below `root`: [margin, contrast, text, where, ground, ink], the worst first
  async function contrasts(root) {
    const { style, box, behind } = looker();
    const found = [];
    const judge = (said, ink, grounds, part) => {
      const least = /[\p{L}\p{N}]/u.test(said) ? TEXT : SIGN;
      const all = grounds.map((ground) => contrast(over(ground, ink), ground));
      const worst = Math.min(...all), ground = grounds[all.indexOf(worst)];
      const where = String(part.className?.baseVal ?? part.className ?? "").slice(0, 40) || part.tagName;
      found.push([worst - least, Number(worst.toFixed(2)), said.slice(0, 60), where, ground.map(Math.round).join(), ink.slice(0, 3).map(Math.round).join()]);
    };
    const skipped = memo((part) => Boolean(part.closest(DISABLED) || part.closest(".widget-slider")?.querySelector("[disabled]")));

    // pictures within pictures, as plotly's heat maps
    const pens = new Map();
    for (const image of root.querySelectorAll("svg image")) {
      const canvas = new OffscreenCanvas(Math.max(1, Math.round(box(image).width)), Math.max(1, Math.round(box(image).height)));
      const copy = new Image();
      copy.src = image.href.baseVal;
      await copy.decode();
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.imageSmoothingEnabled = false;
      pen.drawImage(copy, 0, 0, canvas.width, canvas.height);
      pens.set(image, pen);
    }
    // colours that a shape is painted with at a place, in order: its own, those of its pattern, or a picture's
    const fills = memo((shape) => {
      const look = style(shape), named = look.fill.match(/url\("?#([^")]+)"?\)/);
      const share = Number(look.fillOpacity) * Number(look.opacity);
      const marks = named ? [...(document.getElementById(named[1])?.querySelectorAll("rect, path, circle") ?? [])].map(style) : [look];
      return marks.filter((each) => each.fill !== "none").map((each) => {
        const [r, g, b, a] = numbers(each.fill);
        return [r, g, b, a * share * (named ? Number(each.fillOpacity) * Number(each.opacity) : 1)];
      }).filter((paint) => paint[3] > 0);
    });
    const paints = (shape, x, y) => {
      if (!pens.has(shape)) return fills(shape);
      const [r, g, b, a] = pens.get(shape).getImageData(x - box(shape).left, y - box(shape).top, 1, 1).data;
      return [[r, g, b, a / 255]];
    };
    const inside = (shape, x, y) => {
      const { left, right, top, bottom } = box(shape);
      if (x < left || x > right || y < top || y > bottom) return false;
      const to = pens.has(shape) || shape.getScreenCTM();
      return to === true || (to !== null && shape.isPointInFill(new DOMPoint(x, y).matrixTransform(to.inverse())));
    };
    const drawnIn = memo((frame) => [...frame.querySelectorAll(SHAPES)].filter(
      (each) => !each.closest("defs, clipPath, pattern") && (pens.has(each) || fills(each).length)));
    const outermost = (part) => {
      for (let up = part.parentElement?.closest("svg"); up; up = part.parentElement?.closest("svg")) part = up;
      return part;
    };
    const drawn = (part, said, r) => {
      const plotly = part.closest(".svg-container"); // its first picture has the ground of all
      const [ground, through] = behind(plotly?.querySelector("svg.main-svg") ?? outermost(part).parentElement);
      const look = style(part), [red, green, blue, a] = numbers(look.fill);
      let alpha = a * Number(look.fillOpacity);
      for (let up = part; up instanceof SVGElement; up = up.parentElement) alpha *= Number(style(up).opacity);
      const halo = look.paintOrder.startsWith("stroke") && look.stroke !== "none" ? numbers(look.stroke) : [0, 0, 0, 0];
      const grounds = [0.1, 0.5, 0.9].map((share) => {
        const x = r.left + share * r.width, y = r.top + r.height / 2;
        let below = ground;
        for (const shape of drawnIn(plotly ?? outermost(part)))
          if (shape.compareDocumentPosition(part) & Node.DOCUMENT_POSITION_FOLLOWING && inside(shape, x, y))
            for (const paint of paints(shape, x, y)) below = over(below, paint);
        return through(over(below, halo));
      });
      judge(said, [red, green, blue, alpha], grounds, part);
    };

    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), range = document.createRange();
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const said = node.data.trim(), part = node.parentElement;
      if (!said || skipped(part) || !part.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
      range.selectNodeContents(node);
      const r = range.getBoundingClientRect();
      if (r.width < 2 || r.height < 2) continue;
      if (part instanceof SVGElement) { drawn(part, said, r); continue; }
      const [ground, through] = behind(part);
      judge(said, [...through(over(ground, numbers(style(part).color))), 1], [through(ground)], part);
    }
    for (const part of root.querySelectorAll("input, textarea, select")) {
      if (skipped(part) || ["checkbox", "radio", "range"].includes(part.type) || !part.checkVisibility()) continue;
      const [ground, through] = behind(part);
      judge(part.value || "field", [...through(over(ground, numbers(style(part).color))), 1], [through(ground)], part);
    }
    return found.sort((one, other) => one[0] - other[0]);
  }

  // "" where one sees that this part has the focus, else what it looks like
  function unseen(part) {
    const { style, behind } = looker(), look = style(part);
    const name = (part.getAttribute("aria-label") || part.textContent || part.value || "").trim().slice(0, 40);
    const told = `${part.tagName} .${part.getAttribute("class") ?? ""} '${name}'`;
    if (part instanceof SVGElement) { // a part of a picture: one of its lines becomes thick or dashed
      const lines = [...part.querySelectorAll("rect, path")].map(style);
      return lines.some((l) => l.stroke !== "none" && parseFloat(l.strokeWidth) >= 2.5) ? "" : `${told}: no line around it`;
    }
    if (look.outlineStyle === "none" || parseFloat(look.outlineWidth) < 2) return `${told}: outline ${look.outline}`;
    const around = part.closest(".widget-slider") ?? part.parentElement; // a handle is larger than its track
    const ground = behind(around)[0], found = contrast(over(ground, numbers(look.outlineColor)), ground);
    return found >= SIGN ? "" : `${told}: outline ${look.outlineColor} has ${found.toFixed(2)}:1`;
  }

  return { contrasts, unseen };
})()
