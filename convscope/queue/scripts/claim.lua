#!lua flags=allow-oom
-- Waiting runs for a worker: quick ones first, then interactive ones, in the order of their callers' shares, each under a
-- new epoch. Each lane has places of its own, and of a lane's places one caller gets `most_…` at most (where others could
-- want some), so that long requests of one caller never take them all.
-- Sent twice (the same token), it gives the same runs again as long as they are still this worker's.

local worker = args.worker
local held_key = key('held', worker)
local operations = {}
for name in string.gmatch(args.operations, '[^,]+') do operations[name] = true end

local given = {}

-- The run as the worker gets it. Its deadline is that of the job that may wait longest; none where one may wait for ever.
local function describe(run, slot)
  local jobs, latest = members(run), 0
  for _, job in ipairs(jobs) do
    local deadline = tonumber(redis.call('HGET', key('job', job), 'deadline_ms') or '')
    latest = deadline and latest and math.max(latest, deadline)
  end
  local deadline = latest and latest > 0 and latest or nil
  return { run, slot, deadline and tostring(deadline) or '', deadline and tostring(deadline - now) or '', jobs,
    redis.call('HGETALL', key('run', run)) }
end

local last = redis.call('HMGET', key('claimed', worker), 'token', 'runs')
if last[1] == args.token then
  for run, epoch, slot in string.gmatch(last[2], '(%S+) (%S+) (%S+)') do
    local held = redis.call('HMGET', key('run', run), 'epoch', 'owner', 'state')
    if held[1] == epoch and held[2] == worker and held[3] == 'running' then given[#given + 1] = describe(run, slot) end
  end
  return given
end

-- What it holds now, and whose. A run that has to be alone excludes all others for as long as it is so marked, and one that was
-- asked back so that the next can be alone, until it is back.
local holding, long_ones, cannot_be_saved = 0, 0, false
local theirs = {} -- lane and caller → runs held
local function note_caller(lane, caller)
  local whose = lane .. ' ' .. (caller or '')
  theirs[whose] = (theirs[whose] or 0) + 1
end
for _, run in ipairs(redis.call('SMEMBERS', held_key)) do
  local held = redis.call('HMGET', key('run', run), 'owner', 'state', 'alone', 'park', 'lane', 'asked_ms', 'caller')
  if held[1] == worker and held[2] == 'running' then
    if held[3] == '1' or held[4] == '1' then return given end
    holding = holding + 1
    note_caller(held[5], held[7])
    if held[5] == 'batch' then long_ones = long_ones + 1 end
    if held[6] and held[6] ~= '' and now - tonumber(held[6]) > SAVED_WITHIN_MS then cannot_be_saved = true end
  else
    redis.call('SREM', held_key, run)
  end
end

local receipt = {}
local sealed = false -- nothing may be given beside what has been given

local function take(run, slot)
  local at = key('run', run)
  local held = redis.call('HMGET', at, 'lane', 'caller', 'place')
  local shares = key('shares', held[1])
  if tonumber(held[3] or '0') > tonumber(redis.call('HGET', shares, ':clock') or '0') then
    redis.call('HSET', shares, ':clock', held[3])
  end
  note_caller(held[1], held[2])
  withdraw(run)
  local epoch = redis.call('HINCRBY', at, 'epoch', 1)
  local attempt = redis.call('HINCRBY', at, 'attempt', 1)
  redis.call('HSET', at, 'state', 'running', 'park', '0', 'asked_ms', '', 'owner', worker)
  redis.call('ZADD', key('leases'), now + tonumber(args.lease_ms), run)
  redis.call('SADD', held_key, run)
  for _, job in ipairs(members(run)) do
    local job_key = key('job', job)
    local held = redis.call('HMGET', job_key, 'created_ms', 'started_ms', 'operation')
    redis.call('HSET', job_key, 'state', 'running', 'attempt', attempt)
    if not held[2] then
      local queued = math.max(0, now - tonumber(held[1]))
      redis.call('HSET', job_key, 'started_ms', now, 'queued_ms', queued)
      measure('queued', held[3], queued)
    end
    announce(job)
  end
  sealed = redis.call('HGET', at, 'alone') == '1'
  given[#given + 1] = describe(run, slot)
  receipt[#receipt + 1] = table.concat({ run, epoch, slot }, ' ')
end

-- Whether a waiting run can be given now; what is no longer worth computing leaves the lane here.
local function fits(run)
  local held = redis.call('HMGET', key('run', run), 'state', 'operation', 'alone', 'waiting_ms', 'lane', 'caller',
    'bounded', 'cost')
  if held[1] ~= 'queued' then
    withdraw(run)
    return false, true
  end
  if not operations[held[2]] then return false end
  local most = tonumber(args['most_' .. held[5]])
  if most > 0 and held[7] == '1' and (theirs[held[5] .. ' ' .. held[6]] or 0) >= most then
    return false, false, nil, 'share'
  end
  if held[3] == '1' and holding + #given > 0 then return false end
  expire_members(run)
  if settle(run) then return false, true end
  -- What costs more ages more slowly.
  local dear = math.min(math.max(tonumber(held[8] or '0') / AGED_COST, 1), AGED_SLOWEST)
  return true, false, now - tonumber(held[4]) >= dear * tonumber(args.aged_ms)
end

-- Give up to `wanted` runs of a lane, in the order of their places; `aged` takes only those that waited long, the longest
-- waiting first, `suspects` only those that have to be alone. (Runs of a caller who has its share of places are passed
-- over; those of others are never far behind them.)
local function serve(lane, slot, wanted, aged, suspects)
  local skipped, over = 0, 0
  while wanted > 0 and not sealed and over < PASSED_OVER do
    local page = redis.call('ZRANGE', key(aged and 'waiting' or 'lane', lane), skipped, skipped + 49)
    if #page == 0 then return end
    for _, run in ipairs(page) do
      local fit, gone, old, why = fits(run)
      if why == 'share' then over = over + 1 end
      if suspects and fit and redis.call('HGET', key('run', run), 'alone') ~= '1' then fit = false end
      if fit and aged and not old then
        fit = false
        over = over + 1
      end
      if fit then
        take(run, slot)
        wanted = wanted - 1
        if wanted == 0 or sealed then return end
      elseif not gone then
        skipped = skipped + 1
      end
    end
  end
end

local brief, interactive, batch = tonumber(args.quick), tonumber(args.interactive), tonumber(args.batch)

-- A run that has to be alone must not wait for ever for a worker that is never idle: after a while one worker takes no
-- more batch work and gives back what can be gone on with (`renew` asks for that); as soon as it has quick work only, or
-- much later, it takes nothing at all, until it is idle and can have it. One whose long work was asked for and has not
-- been saved (some cannot be) leaves that to the others, and goes on. Quick suspects come before long ones.
local function make_room(run)
  local held = redis.call('HMGET', key('run', run), 'operation', 'waiting_ms', 'lane')
  if not operations[held[1]] then return false end
  if holding == 0 and (brief > 0 or interactive > 0 or batch > 0) then
    if not fits(run) then return false end
    take(run, held[3])
    redis.call('DEL', key('draining'))
    return true
  end
  if cannot_be_saved then
    if redis.call('GET', key('draining')) == worker then redis.call('DEL', key('draining')) end
    return true
  end
  if redis.call('SET', key('draining'), worker, 'NX') then ring('room') end
  if redis.call('GET', key('draining')) == worker then
    redis.call('PEXPIRE', key('draining'), DRAINING_MS)
    batch = 0
    local waited = now - tonumber(held[2])
    if waited >= tonumber(args.aged_ms) or (long_ones == 0 and waited >= 2 * tonumber(args.patience_ms)) then
      brief, interactive = 0, 0
    end
  end
  return true
end

local quick, long = {}, {}
for _, run in ipairs(redis.call('ZRANGEBYSCORE', key('alone'), '-inf', now - tonumber(args.patience_ms))) do
  local sort = redis.call('HGET', key('run', run), 'lane') == 'batch' and long or quick
  sort[#sort + 1] = run
end
for _, run in ipairs(long) do quick[#quick + 1] = run end
for _, run in ipairs(quick) do
  if make_room(run) then break end
end

if brief > 0 and not sealed then serve('quick', 'quick', brief) end
if interactive > 0 and not sealed then
  -- Ageing: where a worker has no room for batch work, a batch run that waited long gets an interactive place at every
  -- fourth claim, but never more than a part of these (`aged` of them are left). It counts as batch work again as soon as
  -- there is room for that.
  local turn = redis.call('INCR', key('turns'))
  if batch == 0 and tonumber(args.aged) > 0 and turn % 4 == 0 and redis.call('GET', key('draining')) ~= worker then
    local before = #given
    serve('batch', 'interactive', 1, true)
    interactive = interactive - (#given - before)
  end
  serve('interactive', 'interactive', interactive)
end
-- An idle worker takes a suspect before other batch work, which would keep it from being idle for long.
if batch > 0 and holding + #given == 0 and redis.call('ZCARD', key('alone')) > 0 then
  serve('batch', 'batch', 1, false, true)
end
serve('batch', 'batch', batch)

redis.call('HSET', key('claimed', worker), 'token', args.token, 'runs', table.concat(receipt, ' '))
redis.call('PEXPIRE', key('claimed', worker), CLAIM_KEPT_MS)
return given
