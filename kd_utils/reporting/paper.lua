-- What pandoc must be told on the way from an executed notebook to a paper, in typst (for the PDF) or HTML.
-- Equations are labelled as LaTeX does; @fig-x, @tbl-x and @eq-x are cross-references, not citations.

local typst = FORMAT:match 'typst'
local numbers = {}
local labels = {}
local counts = {Figure = 0, Table = 0, Equation = 0}

local function numbered(kind, id)
  counts[kind] = counts[kind] + 1
  if id ~= '' then numbers[id] = kind .. ' ' .. counts[kind] end
  return counts[kind]
end

local function captioned(kind)
  return function(block)
    local head = pandoc.Strong {pandoc.Str(kind .. ' ' .. numbered(kind, block.identifier) .. ': ')}
    local first = block.caption.long[1]
    if first then first.content:insert(1, head) else block.caption.long = {pandoc.Plain {head}} end
    return block
  end
end

-- what may be wider than the page scrolls by keyboard, and says what it is; pairs, for the same order each time
local function reachable(role, by, label)
  return {{'tabindex', '0'}, {'role', role}, {by, label}}
end

local function equation(math)
  local text, id = math.text:match '^(.*)\\label{([%w-]+)}%s*$'
  if not id then return nil end
  labels[id] = true
  if typst then
    local written = pandoc.write(pandoc.Pandoc(pandoc.Plain {pandoc.Math('DisplayMath', text)}), 'typst')
    return pandoc.RawInline('typst', (written:gsub('%s+$', '')) .. ' <' .. id .. '>')
  end
  local number = numbered('Equation', id)
  return pandoc.Span(
    {pandoc.Math('DisplayMath', text), pandoc.Span({pandoc.Str('(' .. number .. ')')}, {class = 'number'})},
    pandoc.Attr(id, {'equation'}, reachable('group', 'aria-label', 'Equation ' .. number))
  )
end

local function labelled(block)
  labels[block.identifier] = true
end

local function reference(cite)
  local id = cite.citations[1].id
  if not labels[id] then return cite.content end
  if typst then return pandoc.RawInline('typst', '#ref(<' .. id .. '>)') end
  return pandoc.Link({pandoc.Str(numbers[id])}, '#' .. id)
end

-- references and appendix have no number, and what is still floating comes before them
local function at_the_end(header)
  local name = pandoc.utils.stringify(header)
  if name == 'References' or name:match '^Appendix' then
    header.classes:insert 'unnumbered'
    return typst and {pandoc.RawBlock('typst', '#place.flush()'), header} or header
  end
end

-- long tables may break, the others stay on one page
local function fitted(block)
  if typst and #block.bodies[1].body > 16 then
    local head = '#[\n#show figure: set block(breakable: true)'
    return {pandoc.RawBlock('typst', head), block, pandoc.RawBlock('typst', ']')}
  end
end

-- in HTML a table scrolls by itself, by keyboard too; its heads say of what they are, a row's first cell that of the row
local function scrolling(block)
  for _, row in ipairs(block.head.rows) do
    for _, cell in ipairs(row.cells) do cell.attr = pandoc.Attr('', {}, {scope = 'col'}) end
  end
  for _, body in ipairs(block.bodies) do
    body.row_head_columns = 1
    for _, row in ipairs(body.body) do row.cells[1].attr = pandoc.Attr('', {}, {scope = 'row'}) end
  end
  local id, by, label = block.identifier, 'aria-label', 'Table'
  block.attr = pandoc.Attr()
  if id ~= '' then
    by, label = 'aria-labelledby', id .. '-caption'
    block.caption.long = {pandoc.Div(block.caption.long, pandoc.Attr(label))}
  end
  return pandoc.Div({block}, pandoc.Attr(id, {'scroll'}, reachable('region', by, label)))
end

-- attributes may hold handlers
local function bare(element)
  if element.attr then element.attr = pandoc.Attr() end
  if element.t ~= 'Table' then return element end
  local rows = pandoc.List {}
  rows:extend(element.head.rows)
  for _, body in ipairs(element.bodies) do rows:extend(body.head) rows:extend(body.body) end
  rows:extend(element.foot.rows)
  for _, row in ipairs(rows) do
    row.attr = pandoc.Attr()
    for _, cell in ipairs(row.cells) do cell.attr = pandoc.Attr() end
  end
  return element
end

-- a plain DataFrame has a table in HTML only; the empty environment keeps the reader from files and addresses
local function html_table(block)
  if not block.classes:includes 'output-html' then return nil end
  return pandoc.read(block.text, 'html-native_divs-native_spans', {}, {}).blocks:walk {Block = bare, Inline = bare}
end

-- a figure is of one picture or several, which stand beside each other where there is room
local function figure(block)
  if not block.classes:includes 'output-figure' then return nil end
  local told = pandoc.json.decode(block.text, false)
  local pictures = pandoc.List {}
  for _, panel in ipairs(told.panels) do
    pictures:extend {pandoc.Image({pandoc.Str(panel.says)}, panel.file), pandoc.SoftBreak()}
  end
  local reader = {format = 'markdown', extensions = PANDOC_READER_OPTIONS.extensions}
  local caption = pandoc.read(told.caption, reader).blocks
  return pandoc.Figure({pandoc.Plain(pictures)}, {long = caption}, pandoc.Attr(told.label))
end

-- what a notebook says runs nothing and loads nothing: pictures are those that its outputs left beside the text
local function none() return {} end
local function picture(image)
  if not image.src:match '^[%w._-]+$' then return image.caption end
end
local function link(a)
  if not a.target:match '^#' and not a.target:match '^https?://' then return a.content end
end
-- what pandoc leaves as it is and typst would take for markup: lists and headings at the start of a line or a cell,
-- and shorthands
local function literal(str)
  for _, sign in ipairs {'^[=+/-]', '^%d+%.$', '%.%.%.', '%-%?'} do
    if str.text:match(sign) then return pandoc.RawInline('typst', (str.text:gsub('%p', '\\%0'))) end
  end
end

-- no line ends within T = 4, ± 0.9 or 95 %; browsers may break beside mathematics, whatever the blank
local relations = {'=', '≥', '≤', '<', '>', '±'}
local function starts(inline, signs)
  for _, sign in ipairs(inline and inline.t == 'Str' and signs or {}) do
    if inline.text:sub(1, #sign) == sign then return true end
  end
end
local function glued(inlines)
  local made, group, glue = pandoc.List {}, pandoc.List {}, true
  local function close()
    if #group > 1 and not typst then group = pandoc.List {pandoc.Span(group, {class = 'together'})} end
    made:extend(group)
    group = pandoc.List {}
  end
  for k, inline in ipairs(inlines) do
    local before, after, follows = inlines[k - 1], inlines[k + 1], glue
    glue = before and inline.t == 'Space'
      and (starts(before, relations) or starts(after, relations) or starts(after, {'%'}))
    if not (glue or follows) then close() end
    group:insert(glue and pandoc.Str '\u{a0}' or inline)
  end
  close()
  return made
end

function Pandoc(doc)
  local function walk(filter)
    doc = doc:walk(filter)
    doc.meta = pandoc.Pandoc({}, doc.meta):walk(filter).meta
  end
  walk {RawBlock = none, RawInline = none}
  walk {CodeBlock = html_table}
  walk {CodeBlock = figure}
  walk {RawBlock = none, RawInline = none}
  walk {Image = picture, Link = link}
  walk {Inlines = glued}
  if typst then walk {Str = literal} end
  walk {Math = equation}
  walk {Figure = labelled, Table = labelled}
  if not typst then walk {Figure = captioned 'Figure', Table = captioned 'Table'} end
  walk {Header = at_the_end, Table = fitted}
  walk {Cite = reference}
  if not typst then walk {Table = scrolling} end
  for _, name in ipairs {'title', 'subtitle'} do
    local told = doc.meta[name]
    if pandoc.utils.type(told) == 'Blocks' then doc.meta[name] = pandoc.utils.blocks_to_inlines(told) end
  end
  return doc
end
