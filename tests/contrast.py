"""Contrast by WCAG 2.1 of what an element of a page shows, as it is painted: opacity counts."""

from __future__ import annotations

# Takes the selector of an element; gives [text, contrast that it needs, contrast that it has] of
# each text in it, and of each curve of a chart. Disabled controls need none.
CONTRASTS = """selector => {
    const root = [...document.querySelectorAll(selector)].find(element => element.checkVisibility())
    const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
    const rgba = colour => {
        probe.clearRect(0, 0, 1, 1)
        probe.fillStyle = colour
        probe.fillRect(0, 0, 1, 1)
        const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data
        return [r, g, b, a / 255]
    }
    const mixed = (front, back, share) => back.map((b, i) => share * front[i] + (1 - share) * b)
    const over = (front, back) => mixed(front, back, front[3] ?? 1)
    const light = colour => {
        const [r, g, b] = colour.map(v => v / 255).map(v =>
            v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    // Styles from the page down to a text -> colours of the text and of what is around it.
    const painted = ([style, ...inner], behind, property) => {
        const back = over(rgba(style.backgroundColor), behind)
        const [text, around] = inner.length ? painted(inner, back, property)
            : [over(rgba(style[property]), back), back]
        return [text, around].map(colour => mixed(colour, behind, Number(style.opacity)))
    }
    const ratio = (element, property, pseudo) => {
        const styles = pseudo ? [getComputedStyle(element, pseudo)] : []
        for (; element; element = element.parentElement) styles.unshift(getComputedStyle(element))
        const [a, b] = painted(styles, [255, 255, 255], property).map(light)
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    }
    const found = []
    for (const element of [root, ...root.querySelectorAll('*')]) {
        if (!element.checkVisibility() || element.closest(':disabled')) continue
        if ([...element.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim()))
            found.push([element.textContent, 4.5,
                ratio(element, element instanceof SVGElement ? 'fill' : 'color')])
        for (const pseudo of ['::before', '::after']) {
            const {content, display} = getComputedStyle(element, pseudo)
            if (display !== 'none' && !['none', 'normal', '""'].includes(content))
                found.push([content, 4.5, ratio(element, 'color', pseudo)])
        }
        if (element.matches('.mip-chart .curve'))
            found.push([element.getAttribute('style'), 3, ratio(element, 'stroke')])
    }
    return found
}"""
