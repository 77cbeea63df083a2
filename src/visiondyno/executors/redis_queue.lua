-- Every operation of the queue on Redis: each call is one atomic step and one round trip.
--
-- KEYS[1]  prefix of all keys; its hash tag keeps them on one node
-- ARGV     time in ms or '' for Redis' own, retention in ms, length of the feed; then operations:
--          the name, how many arguments, and those. Gives each operation's result, false if none
--
-- job:ID      hash: state, input (until it ends), limit, ttl_at (if it has one), low, attempt,
--             most (attempts), place (in the order: microseconds), put_at, started_at (first
--             claim), claimed_at (last claim), worker, token (of the claim in force, or '')
-- events:ID   list: event number n is item n - 1: STATE, STATE pPROGRESS or STATE aANSWER
-- feed        stream of 'NUMBER ID', capped: which events came, in order
-- waiting, waiting:low   by place: what may be claimed now
-- backoff     by time: what waits until then;  since, ttl   by time: all that waits
-- leases      by time: what runs;  ended:STATE   by time of being forgotten
-- workers, seen, commands   what supervisors told, when (by time), and what they are told
-- armed:TOPIC   somebody looked and found nothing: the next change rings. So a busy queue rings
--             once for each look and not once for each change.
--
-- A ttl ends only jobs that never ran.

local P, call = KEYS[1], redis.call
local now, retention_ms, feed_length = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local AT_ONCE = 1000
local has_new_event = false
local operations = {}

local function whole(number)
  return string.format('%d', number)
end

local function ring(topic)
  if call('DEL', P .. 'armed:' .. topic) == 1 then
    call('PUBLISH', P .. 'bell:' .. topic, 'ring')
  end
end

local function ring_always(topic)
  call('DEL', P .. 'armed:' .. topic)
  call('PUBLISH', P .. 'bell:' .. topic, 'ring')
end

local function due(set, before)
  return call('ZRANGEBYSCORE', P .. set, '-inf', before, 'LIMIT', 0, AT_ONCE)
end

local function append(id, event)
  local number = call('RPUSH', P .. 'events:' .. id, event)
  call('XADD', P .. 'feed', 'MAXLEN', '~', feed_length, '*', 'e', number .. ' ' .. id)
  has_new_event = true
end

local function job_of(id)
  local fields = call('HGETALL', P .. 'job:' .. id)
  local job = {}
  for i = 1, #fields, 2 do
    job[fields[i]] = fields[i + 1]
  end
  return job
end

local function holds(id, token)
  local held = call('HGET', P .. 'job:' .. id, 'token')
  return held and held ~= '' and held == token
end

local function line_up(id, job, ready_at)
  if ready_at > now then
    call('ZADD', P .. 'backoff', ready_at, id)
  else
    call('ZADD', P .. (job.low == '1' and 'waiting:low' or 'waiting'), job.place, id)
  end
  call('ZADD', P .. 'since', job.put_at, id)
end

local function leave_line(id)
  for _, set in ipairs({'waiting', 'waiting:low', 'backoff', 'since', 'ttl'}) do
    call('ZREM', P .. set, id)
  end
end

local function finish(id, state, answer)
  append(id, state .. ' a' .. answer)
  call('HSET', P .. 'job:' .. id, 'state', state, 'token', '')
  call('HDEL', P .. 'job:' .. id, 'input')
  call('ZREM', P .. 'leases', id)
  call('ZADD', P .. 'ended:' .. state, whole(now + retention_ms), id)
  call('PEXPIRE', P .. 'job:' .. id, retention_ms)
  call('PEXPIRE', P .. 'events:' .. id, retention_ms)
end

local function finish_with_error(id, state, error_json)
  local job = job_of(id)
  local waited_ms = (job.started_at or now) - job.put_at
  local ran_ms = job.claimed_at and whole(now - job.claimed_at) or 'null'
  local worker = job.worker and cjson.encode(job.worker) or 'null'
  leave_line(id)
  finish(id, state, string.format(
    '{"id":%s,"status":"%s","delayTime":%s,"executionTime":%s,"workerId":%s,"error":',
    cjson.encode(id), state, whole(waited_ms), ran_ms, worker) .. error_json .. '}')
end

local function expire(late_error)
  local late = due('ttl', '(' .. whole(now))
  for _, id in ipairs(late) do
    finish_with_error(id, 'TIMED_OUT', late_error)
  end
  return #late < AT_ONCE  -- else others may be late too
end

local function give_back(id, reason, pause_ms, is_blameless)
  local job = job_of(id)
  if not is_blameless and tonumber(job.attempt) >= tonumber(job.most) then
    local message = reason .. ' It was attempt ' .. job.attempt .. ' of ' .. job.most .. '.'
    finish_with_error(id, 'FAILED',
      '{"code":"child_died","message":' .. cjson.encode(message) .. ',"stage":"run"}')
    return
  end
  call('HSET', P .. 'job:' .. id, 'state', 'IN_QUEUE', 'token', '')
  call('HDEL', P .. 'job:' .. id, 'worker')
  if is_blameless then
    local attempt = call('HINCRBY', P .. 'job:' .. id, 'attempt', -1)
    if attempt == 0 and job.ttl_at then
      call('ZADD', P .. 'ttl', job.ttl_at, id)
    end
  end
  call('ZREM', P .. 'leases', id)
  line_up(id, job, now + pause_ms)
  append(id, 'IN_QUEUE')
  ring('work')
end

local function next_place()
  local place = math.max(tonumber(call('GET', P .. 'place') or 0) + 1, now * 1000)
  call('SET', P .. 'place', whole(place))
  return whole(place)
end

-- ID, input, time limit in ms or '', ttl in ms or '', 1 for low priority, attempts, place or '';
-- and so on
function operations.put(args)
  local has_new_job = false
  for i = 1, #args, 7 do
    local id, ttl_ms = args[i], tonumber(args[i + 3])
    if call('EXISTS', P .. 'job:' .. id) == 0 then
      local place = args[i + 6] ~= '' and args[i + 6] or next_place()
      local job = {place = place, put_at = whole(now), low = args[i + 4]}
      call('HSET', P .. 'job:' .. id, 'state', 'IN_QUEUE', 'input', args[i + 1],
        'limit', args[i + 2], 'low', job.low, 'most', args[i + 5], 'attempt', 0,
        'place', place, 'put_at', job.put_at, 'token', '')
      line_up(id, job, now)
      if ttl_ms then
        call('HSET', P .. 'job:' .. id, 'ttl_at', whole(now + ttl_ms))
        call('ZADD', P .. 'ttl', whole(now + ttl_ms), id)
      end
      append(id, 'IN_QUEUE')
      has_new_job = true
    end
  end
  if has_new_job then
    ring('work')
  end
end

local function next_waiting()
  local found = call('ZPOPMIN', P .. 'waiting')
  if #found == 0 then
    found = call('ZPOPMIN', P .. 'waiting:low')
  end
  return found[1]
end

-- lease in ms, error of late jobs; then worker, token; and so on
function operations.claim(args)
  local lease_ms, claims = args[1], {}
  if not expire(args[2]) then
    return claims
  end
  for _, id in ipairs(due('backoff', whole(now))) do
    call('ZREM', P .. 'backoff', id)
    line_up(id, job_of(id), now)
  end
  for i = 3, #args, 2 do
    local id = next_waiting()
    if not id then
      call('SET', P .. 'armed:work', 1)
      break
    end
    local key, worker, token = P .. 'job:' .. id, args[i], args[i + 1]
    leave_line(id)
    call('ZADD', P .. 'leases', whole(now + lease_ms), id)
    call('HSETNX', key, 'started_at', whole(now))
    call('HSET', key, 'state', 'IN_PROGRESS', 'token', token, 'worker', worker,
      'claimed_at', whole(now))
    local attempt = call('HINCRBY', key, 'attempt', 1)
    append(id, 'IN_PROGRESS')
    local job = call('HMGET', key, 'input', 'limit', 'started_at', 'put_at')
    claims[#claims + 1] = {id, token, worker, attempt, job[1], job[2], whole(job[3] - job[4])}
  end
  return claims
end

-- lease in ms; then ID, token; and so on. Gives 1 for each claim that is held still, else 0
function operations.renew(args)
  local held = {}
  for i = 2, #args, 2 do
    local is_held = holds(args[i], args[i + 1])
    if is_held then
      call('ZADD', P .. 'leases', whole(now + args[1]), args[i])
    end
    held[#held + 1] = is_held and 1 or 0
  end
  return held
end

-- ID, token, progress; and so on
function operations.report(args)
  for i = 1, #args, 3 do
    if holds(args[i], args[i + 1]) then
      append(args[i], 'IN_PROGRESS p' .. args[i + 2])
    end
  end
end

-- ID, token, state, answer; and so on. Gives 1 for each answer that was written, else 0
function operations.finish(args)
  local written = {}
  for i = 1, #args, 4 do
    local is_held = holds(args[i], args[i + 1])
    if is_held then
      finish(args[i], args[i + 2], args[i + 3])
    end
    written[#written + 1] = is_held and 1 or 0
  end
  return written
end

-- ID, token, reason, pause in ms, 1 if blameless
function operations.give_back(args)
  if holds(args[1], args[2]) then give_back(args[1], args[3], tonumber(args[4]), args[5] == '1') end
end

-- ID, error. Gives 0 if there is no such job
function operations.cancel(args)
  local state = call('HGET', P .. 'job:' .. args[1], 'state')
  if not state then
    return 0
  end
  if state == 'IN_QUEUE' or state == 'IN_PROGRESS' then
    finish_with_error(args[1], 'CANCELLED', args[2])
    ring_always('work')
  end
  return 1
end

-- error of late jobs, expiry of workers in ms; then the pause in ms after attempt 1, 2 ...
function operations.sweep(args)
  -- What frees memory comes first: a Redis that is full still does that.
  for _, state in ipairs({'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'}) do
    for _, id in ipairs(due('ended:' .. state, '(' .. whole(now))) do
      call('UNLINK', P .. 'job:' .. id, P .. 'events:' .. id)
      call('ZREM', P .. 'ended:' .. state, id)
    end
  end
  for _, worker in ipairs(due('seen', '(' .. whole(now - args[2]))) do
    call('ZREM', P .. 'seen', worker)
    call('HDEL', P .. 'workers', worker)
    call('HDEL', P .. 'commands', worker)
  end
  expire(args[1])
  for _, id in ipairs(due('leases', '(' .. whole(now))) do
    local job = job_of(id)
    local place = math.min(2 + job.attempt, #args)
    give_back(id, 'Worker ' .. job.worker .. ' stopped renewing its lease (killed, or cut off).',
      tonumber(args[place]), false)
  end
end

-- ID, number after which. Gives nothing (nil) if there is no such job
function operations.events(args)
  if call('EXISTS', P .. 'job:' .. args[1]) == 1 then
    return call('LRANGE', P .. 'events:' .. args[1], args[2], -1)
  end
  return false
end

-- cursor or '', most bytes. Gives the new cursor; then number, ID, event; and so on
function operations.feed(args)
  call('SET', P .. 'armed:events', 1)
  if args[1] == '' then
    local newest = call('XREVRANGE', P .. 'feed', '+', '-', 'COUNT', 1)[1]
    return {newest and newest[1] or '0-0'}
  end
  local found, bytes = {args[1]}, 0
  local entries = call('XRANGE', P .. 'feed', '(' .. args[1], '+', 'COUNT', AT_ONCE)
  for _, entry in ipairs(entries) do
    local number, id = string.match(entry[2][2], '^(%d+) (.*)$')
    local event = call('LINDEX', P .. 'events:' .. id, number - 1)
    if event then  -- else its job was forgotten already
      bytes = bytes + #event
      if #found > 1 and bytes > tonumber(args[2]) then
        break
      end
      found[#found + 1], found[#found + 2], found[#found + 3] = number, id, event
    end
    found[1] = entry[1]
  end
  return found
end

-- IDs. Gives 1 for each that is known, else 0
function operations.known(args)
  local found = {}
  for i = 1, #args do
    found[i] = call('EXISTS', P .. 'job:' .. args[i])
  end
  return found
end

-- Gives claimable, age of the oldest waiting in ms or '', then jobs by state in JobState's order
function operations.counts(args)
  local oldest = call('ZRANGE', P .. 'since', 0, 0, 'WITHSCORES')
  local counts = {
    call('ZCARD', P .. 'waiting') + call('ZCARD', P .. 'waiting:low')
      + call('ZCOUNT', P .. 'backoff', '-inf', whole(now)),
    oldest[2] and whole(now - oldest[2]) or '',
    call('ZCARD', P .. 'since'),
    call('ZCARD', P .. 'leases'),
  }
  for i = 1, #args do
    counts[#counts + 1] = call('ZCOUNT', P .. 'ended:' .. args[i], whole(now), '+inf')
  end
  return counts
end

-- name, what is known of the worker; and so on
function operations.announce(args)
  for i = 1, #args, 2 do
    call('HSET', P .. 'workers', args[i], args[i + 1])
    call('ZADD', P .. 'seen', whole(now), args[i])
  end
end

-- names
function operations.withdraw(args)
  for i = 1, #args do
    call('HDEL', P .. 'workers', args[i])
    call('ZREM', P .. 'seen', args[i])
    call('HDEL', P .. 'commands', args[i])
  end
end

-- expiry of workers in ms
function operations.workers(args)
  local names = call('ZRANGEBYSCORE', P .. 'seen', whole(now - args[1]), '+inf')
  local found = {}
  for _, name in ipairs(names) do
    found[#found + 1] = call('HGET', P .. 'workers', name)
  end
  return found
end

-- expiry of workers in ms, name, command. Gives 0 if there is no such worker
function operations.command(args)
  local seen_at = call('ZSCORE', P .. 'seen', args[2])
  if not seen_at or tonumber(seen_at) < now - args[1] then
    return 0
  end
  call('HSET', P .. 'commands', args[2], args[3])
  ring_always('work')
  return 1
end

-- names. Gives name, command; and so on
function operations.take_commands(args)
  local found = {}
  for i = 1, #args do
    local command = call('HGET', P .. 'commands', args[i])
    if command then
      call('HDEL', P .. 'commands', args[i])
      found[#found + 1], found[#found + 2] = args[i], command
    end
  end
  return found
end

-- topic
function operations.arm(args)
  call('SET', P .. 'armed:' .. args[1], 1)
end

local results, place = {}, 4
while place <= #ARGV do
  local count, args = tonumber(ARGV[place + 1]), {}
  for i = 1, count do
    args[i] = ARGV[place + 1 + i]
  end
  results[#results + 1] = operations[ARGV[place]](args) or false
  place = place + 2 + count
end
if has_new_event then
  ring('events')
end
return results
